"""Tests of the task declarations."""

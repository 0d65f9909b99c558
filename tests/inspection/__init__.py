"""Tests of `ofa_jax.inspect`."""

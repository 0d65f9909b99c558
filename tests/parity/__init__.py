"""Parity with the official models: numbers of their classes against ours."""

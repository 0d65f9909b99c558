"""A page and an HTTP interface to ask a model: `python -m ofa_jax.demo` (the extra `demo`)."""

"""Mixture declarations: which tasks are trained together, at which rates, and why."""

import sys

# Found on the path under its short name: one copy all the same, see ofa_jax.bundled.
if __name__ == "mixtures":
    import ofa_jax.bundled.mixtures

    sys.modules[__name__] = ofa_jax.bundled.mixtures

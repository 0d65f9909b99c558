"""Task declarations: one file per family; importing a file registers its tasks with seqio."""

import sys

# Found on the path under its short name: one copy all the same, see ofa_jax.bundled.
if __name__ == "tasks":
    import ofa_jax.bundled.tasks

    sys.modules[__name__] = ofa_jax.bundled.tasks

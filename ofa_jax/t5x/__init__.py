"""The adapter to upstream t5x: the same model, losses, decoding and input for its three scripts.

`t5x/train.py`, `eval.py` and `infer.py` keep their loops, partitioned execution, checkpoints and
gin; what they are given comes from here. Reading order: `features` and `inputs` (batches),
`models` (what the scripts call a model), `partitioning`, `trainer` (one step), `evaluation`,
`run_files`. The gin files are in `gin_configs/t5x`, the manual is docs/t5x.md.

This is the only directory that may import t5x, which is not on PyPI (docs/t5x.md says how to get
it).
"""

from ofa_jax.t5x import script

script.set_up()

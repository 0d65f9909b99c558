"""Steps that prepare an example for its instruction, pure `fn(example, rng) -> example`.

Each is a small picklable value over the flat schema. `selection` picks what an instruction's slots
name, `image` makes pixels of bytes, `text` cleans texts up; `matching` pairs images with wrong
texts and `finetuning` shapes the rows of fine-tuning data (SPEC 8).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa_jax.data.sources.example import Example

Step = Callable[[Example, np.random.Generator], Example]

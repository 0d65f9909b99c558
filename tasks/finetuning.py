"""What the fine-tuning tasks share: official files by split, vocabulary, images (SPEC 8).

`DATA_DIR` is the directory of one data set, unpacked from the official archive; `VOCAB_DIR` that of
GPT-2's vocabulary, or of the Chinese one for Chinese tasks.
"""

import functools

from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.steps.finetuning import RememberSize
from ofa_jax.data.steps.image import CheckBoxes, DecodeImage, StretchToSquare
from ofa_jax.data.tasks.official_tokenizer import official_tokenizer
from ofa_jax.data.tasks.registration import add_task

add = functools.partial(add_task, tokenizer=functools.partial(official_tokenizer, "{VOCAB_DIR}"))

# All fine-tuned tasks but OCR read an image stretched to a square (SPEC 8).
SQUARE_IMAGE = (DecodeImage(), RememberSize(), StretchToSquare())
SQUARE_IMAGE_WITH_BOXES = (DecodeImage(), RememberSize(), CheckBoxes(), StretchToSquare())


def files(layout: str, **paths: str) -> TsvSource:
    """A file of one layout per split.

    Args:
      layout: key of `ofa_jax.data.sources.tsv_layouts.LAYOUTS`.
      **paths: split to file name below `DATA_DIR`.
    """
    named = tuple((split, f"{{DATA_DIR}}/{name}") for split, name in paths.items())
    return TsvSource(named, layout)

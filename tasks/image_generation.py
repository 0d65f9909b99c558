"""Text to image: a caption becomes the 1,024 codes of an image (SPEC 8.5, 7.9).

`text_to_image` reads the official files, `text_to_image_prepared` what `ofa_jax.prepare` makes of
captioned images (`--code_part=whole`).
"""

import functools

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.steps.finetuning import ImageDescription
from ofa_jax.data.tasks.answering import Answering

from . import instructions
from .finetuning import add, files

_add = functools.partial(
    add,
    instruction=instructions.TEXT_TO_IMAGE,
    family="text_to_image",
    prepare=[ImageDescription(max_words=64)],
    scorer="generated_codes",
    answering=Answering(
        method="sampling",
        decoding={"samples": 1, "top_k": 256},
        submission="image_codes",
    ),
)

_add(
    "text_to_image",
    source=files(
        "image_gen",
        train="coco_vqgan_train.tsv",
        validation="coco_vqgan_dev.tsv",
        test="coco_vqgan_full_test.tsv",
    ),
)
_add("text_to_image_prepared", source=PreparedSource("{DATA_DIR}"))

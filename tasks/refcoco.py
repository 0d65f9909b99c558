"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg (SPEC 8.2, 7.6)."""

from ofa_jax.data.steps.finetuning import FirstReferring
from ofa_jax.data.tasks.answering import Answering

from . import instructions
from .finetuning import SQUARE_IMAGE_WITH_BOXES, add, files

# Exactly four tokens and eos; not restricted to bins.
ANSWERING = Answering(
    decoding={"beam": 5, "min_len": 4, "max_len_b": 4, "no_repeat_ngram_size": 3},
    submission="refcoco",
)
TEST_SPLITS = {
    "refcoco": ("testA", "testB"),
    "refcocoplus": ("testA", "testB"),
    "refcocog": ("test",),
}

for name, test_splits in TEST_SPLITS.items():
    paths = {"train": f"{name}_train.tsv", "validation": f"{name}_val.tsv"}
    paths |= {split: f"{name}_{split}.tsv" for split in test_splits}
    add(
        name,
        instructions.VISUAL_GROUNDING,
        family="visual_grounding",
        source=files("refcoco", **paths),
        prepare=[*SQUARE_IMAGE_WITH_BOXES, FirstReferring()],
        scorer="region",
        splits=tuple(paths),
        answering=ANSWERING,
    )

"""Chinese captioning (MUGE) and referring expressions (RefCOCO-CN) (SPEC 8.10, 7.7).

`VOCAB_DIR` is the directory of the Chinese vocabulary; it is recognized by its files.
"""

from ofa_jax.data.steps.finetuning import ChineseCaption, FirstReferring
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.text.cleaning import without_spaces

from . import instructions
from .finetuning import SQUARE_IMAGE, SQUARE_IMAGE_WITH_BOXES, add, files
from .refcoco import ANSWERING, TEST_SPLITS

add(
    "caption_muge",
    instructions.CAPTIONING_CHINESE,
    family="captioning",
    source=files(
        "caption_muge",
        train="caption_train.tsv",
        validation="caption_val.tsv",
        test="caption_test.tsv",
    ),
    prepare=[*SQUARE_IMAGE, ChineseCaption()],
    eval_prepare=[*SQUARE_IMAGE, ChineseCaption(max_characters=None)],
    scorer="chinese_caption",
    answering=Answering(
        decoding={"beam": 8, "max_len_b": 128, "no_repeat_ngram_size": 3},
        clean=without_spaces,
        submission="caption",
    ),
)

for name, test_splits in TEST_SPLITS.items():
    paths = {"train": f"{name}_cn_train.tsv", "validation": f"{name}_cn_val.tsv"}
    paths |= {split: f"{name}_cn_{split}.tsv" for split in test_splits}
    add(
        f"{name}_cn",
        instructions.VISUAL_GROUNDING_CHINESE,
        family="visual_grounding",
        source=files("refcoco_cn", **paths),
        prepare=[*SQUARE_IMAGE_WITH_BOXES, FirstReferring(chinese=True)],
        scorer="region",
        splits=tuple(paths),
        answering=ANSWERING,
    )

"""COCO captioning: cross entropy (stage 1) and self-critical training (stage 2) (SPEC 8.1, 7.7)."""

from ofa_jax.data.steps.finetuning import AllReferences, TrainingCaption
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.text.cleaning import caption_prediction

from . import instructions
from .finetuning import SQUARE_IMAGE, add, files

ANSWERING = Answering(
    decoding={"beam": 5, "max_len_b": 16, "no_repeat_ngram_size": 3},
    clean=caption_prediction,
    submission="caption",
)
EVALUATION = {"validation": "caption_val.tsv", "test": "caption_test.tsv"}

add(
    "caption_coco",
    instructions.CAPTIONING,
    family="captioning",
    source=files("caption_stage1", train="caption_stage1_train.tsv", **EVALUATION),
    prepare=[*SQUARE_IMAGE, TrainingCaption(max_words=20)],
    eval_prepare=[*SQUARE_IMAGE, AllReferences()],
    scorer="coco_caption",
    answering=ANSWERING,
)
# The target holds all references, of which the rewards are made; see trainer.Trainer.objective.
add(
    "caption_coco_scst",
    instructions.CAPTIONING,
    family="captioning",
    source=files("caption_stage2", train="caption_stage2_train.tsv", **EVALUATION),
    prepare=[*SQUARE_IMAGE, AllReferences()],
    scorer="coco_caption",
    answering=ANSWERING,
)

"""Own prepared data: captions, phrases with a box, questions with free answers.

The chains are those of the official fine-tuning, over prepared shards instead of official files:
`DATA_DIR` is the directory that was prepared, of whatever source. Each task takes the examples of
its type, so one directory may serve several.
"""

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.steps.finetuning import (
    AllReferences,
    FirstReferring,
    LikeliestAnswer,
    QuestionWithObjects,
    TrainingCaption,
)
from ofa_jax.data.steps.selection import ChooseReferring
from ofa_jax.data.steps.text import clean_caption

from . import captioning, instructions, refcoco, vqa
from .finetuning import SQUARE_IMAGE, SQUARE_IMAGE_WITH_BOXES, add

SPLITS = ("train", "validation", "test")


def prepared(example_type: str) -> PreparedSource:
    """The examples of one type in the prepared directory `DATA_DIR`."""
    return PreparedSource("{DATA_DIR}", (example_type,))


add(
    "own_captioning",
    instructions.CAPTIONING,
    family="captioning",
    source=prepared("caption"),
    prepare=[*SQUARE_IMAGE, TrainingCaption(max_words=20)],
    eval_prepare=[*SQUARE_IMAGE, AllReferences()],
    scorer="coco_caption",
    splits=SPLITS,
    answering=captioning.ANSWERING,
)
# Training draws one of the phrases of an image.
add(
    "own_grounding",
    instructions.VISUAL_GROUNDING,
    family="visual_grounding",
    source=prepared("visual_grounding"),
    prepare=[*SQUARE_IMAGE_WITH_BOXES, ChooseReferring(), clean_caption(max_words=80)],
    eval_prepare=[*SQUARE_IMAGE_WITH_BOXES, FirstReferring()],
    scorer="region",
    splits=SPLITS,
    answering=refcoco.ANSWERING,
)
add(
    "own_vqa",
    instructions.VQA,
    family="vqa",
    source=prepared("qa"),
    prepare=[*SQUARE_IMAGE, QuestionWithObjects(), LikeliestAnswer()],
    scorer="vqa_answer",
    splits=SPLITS,
    answering=vqa.OPEN,
)

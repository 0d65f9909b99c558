"""ImageNet-1K classification as naming: every class name is scored (SPEC 8.6)."""

from ofa_jax.data.steps.finetuning import ClassName
from ofa_jax.data.steps.image import AugmentForClassification, DecodeImage
from ofa_jax.data.tasks.answering import Answering, AnswerList

from . import instructions
from .finetuning import SQUARE_IMAGE, add, files

add(
    "imagenet",
    instructions.CLASSIFICATION,
    family="image_classification",
    source=files(
        "imagenet",
        train="imagenet_1k_train.tsv",
        validation="imagenet_1k_val.tsv",
        test="imagenet_1k_val.tsv",
    ),
    prepare=[DecodeImage(), AugmentForClassification(), ClassName()],
    eval_prepare=[*SQUARE_IMAGE, ClassName()],
    scorer="answer",
    answering=Answering(
        answers=AnswerList(path="{DATA_DIR}/class2label_new.pkl"),
        method="candidates",
        submission="answer",
    ),
)

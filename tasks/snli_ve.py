"""SNLI-VE: does an image with its caption imply a sentence? (SPEC 8.4, 7.4)"""

from ofa_jax.data.steps.finetuning import Entailment, LabelWord
from ofa_jax.data.tasks.answering import Answering, AnswerList

from . import instructions
from .finetuning import SQUARE_IMAGE, add, files

WORDS = {"contradiction": "no", "entailment": "yes", "neutral": "maybe"}
PREPARE = [*SQUARE_IMAGE, Entailment(), LabelWord.of(WORDS)]
SOURCE = files(
    "snli_ve",
    train="snli_ve_train.tsv",
    validation="snli_ve_dev.tsv",
    test="snli_ve_test.tsv",
)
ANSWERING = Answering(
    decoder_prompt="source",
    max_tokens=4,
    answers=AnswerList(("no", "yes", "maybe")),
    method="candidates",
    submission="answer",
)

for name, instruction in {
    "snli_ve": instructions.VISUAL_ENTAILMENT,
    "snli_ve_without_premise": instructions.VISUAL_ENTAILMENT_WITHOUT_PREMISE,
}.items():
    add(
        name,
        instruction,
        family="visual_entailment",
        source=SOURCE,
        prepare=PREPARE,
        scorer="answer",
        answering=ANSWERING,
    )

"""VQAv2, answered from a closed set or freely (SPEC 8.3, 7.3)."""

import dataclasses

from ofa_jax.data.steps.finetuning import LikeliestAnswer, QuestionWithObjects
from ofa_jax.data.tasks.answering import Answering, AnswerList

from . import instructions
from .finetuning import SQUARE_IMAGE, add, files

# The decoder reads the question again before it answers (prompt type prev_output).
OPEN = Answering(
    decoder_prompt="source",
    max_tokens=30,
    decoding={"beam": 5, "normalize_scores": False},
    submission="vqa",
)
ALL_CANDIDATES = dataclasses.replace(
    OPEN, answers=AnswerList(path="{DATA_DIR}/trainval_ans2label.pkl"), method="candidates"
)
BEAM = dataclasses.replace(ALL_CANDIDATES, method="search")

for name, answering in {"vqa": ALL_CANDIDATES, "vqa_beam": BEAM, "vqa_open": OPEN}.items():
    add(
        name,
        instructions.VQA,
        family="vqa",
        source=files("vqa", train="vqa_train.tsv", validation="vqa_val.tsv", test="vqa_test.tsv"),
        prepare=[*SQUARE_IMAGE, QuestionWithObjects(), LikeliestAnswer()],
        scorer="vqa_answer",
        answering=answering,
    )

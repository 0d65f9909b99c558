"""Tasks for a pretrained model without fine-tuning (SPEC 7.10), over the fine-tuning files.

Probabilities are taken over the whole vocabulary, without a trie. Grounded question answering on
the embedded world is `scenes_grounded_vqa`.
"""

import dataclasses

from ofa_jax.data.steps.finetuning import (
    Entailment,
    FirstReferring,
    LabelWord,
    LikeliestAnswer,
    QuestionWithObjects,
    Sentences,
)
from ofa_jax.data.tasks.answering import Answering

from . import glue, instructions, refcoco, snli_ve
from .finetuning import SQUARE_IMAGE, SQUARE_IMAGE_WITH_BOXES, add, files

add(
    "zero_shot_vqa",
    instructions.VQA,
    family="vqa",
    source=files("vqa", validation="vqa_val.tsv", test="vqa_test.tsv"),
    prepare=[*SQUARE_IMAGE, QuestionWithObjects(max_objects=0), LikeliestAnswer()],
    scorer="vqa_answer",
    splits=("validation", "test"),
    answering=Answering(
        decoding={"beam": 20, "normalize_scores": False, "max_len_b": 30}, submission="vqa"
    ),
)
for name, test_splits in refcoco.TEST_SPLITS.items():
    paths = {"validation": f"{name}_val.tsv"}
    paths |= {split: f"{name}_{split}.tsv" for split in test_splits}
    add(
        f"zero_shot_{name}",
        instructions.VISUAL_GROUNDING,
        family="visual_grounding",
        source=files("refcoco", **paths),
        prepare=[*SQUARE_IMAGE_WITH_BOXES, FirstReferring()],
        scorer="region",
        splits=tuple(paths),
        answering=refcoco.ANSWERING,
    )
add(
    "zero_shot_snli_ve",
    instructions.VISUAL_ENTAILMENT_WITHOUT_PREMISE,
    family="visual_entailment",
    source=files("snli_ve", validation="snli_ve_dev.tsv", test="snli_ve_test.tsv"),
    prepare=[*SQUARE_IMAGE, Entailment(), LabelWord.of(snli_ve.WORDS)],
    scorer="answer",
    splits=("validation", "test"),
    answering=dataclasses.replace(snli_ve.ANSWERING, renormalize=False),
)
for task, words in glue.WORDS.items():
    add(
        f"zero_shot_{task}",
        instructions.GLUE[task],
        family=f"glue_{task}",
        source=glue.source(task),
        prepare=[Sentences(max_words=512), LabelWord.of(words)],
        scorer=glue.SCORERS.get(task, "answer"),
        splits=("validation", "test"),
        answering=glue.answering(task, renormalize=False),
    )

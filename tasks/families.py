"""The eight pretraining task families: instruction, preparation and scorer, each written once.

`tasks.pretrain` puts them over the official TSV files, `tasks.pretrain_slots` over prepared data
sets. Records of both have the flat schema, so one chain serves both (SPEC 4.3, 4.4).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from ofa_jax.data.sources.example import Source
from ofa_jax.data.steps import Step
from ofa_jax.data.steps.finetuning import LikeliestAnswer
from ofa_jax.data.steps.image import (
    AugmentForText,
    CheckBoxes,
    CropAroundObject,
    DecodeImage,
    JitterScene,
    StretchToSquare,
)
from ofa_jax.data.steps.matching import MatchAnswer, MatchCaption, SkipNoisyStart
from ofa_jax.data.steps.selection import Choose, ChooseReferring, KeepOneReferring
from ofa_jax.data.steps.text import LowerCase, clean_caption, clean_question
from ofa_jax.data.tasks.official_tokenizer import official_tokenizer
from ofa_jax.data.tasks.registration import add_task
from ofa_jax.data.tasks.task import OFATask

from . import instructions

NEGATIVES = "{DATA_DIR}/negative_sample"
VOCABULARY = functools.partial(official_tokenizer, "{VOCAB_DIR}")


@dataclasses.dataclass(frozen=True)
class Family:
    """What tasks of one family share, whatever data they read.

    Attributes:
      family: name under which results are reported.
      instruction: the official line.
      prepare: steps of training.
      eval_prepare: steps of evaluation; None means the same as training.
      scorer: name in `ofa_jax.evaluation.scorers`.
      loss_weight: weight of every target token (SPEC 4.6).
    """

    family: str
    instruction: str
    prepare: tuple[Step, ...]
    eval_prepare: tuple[Step, ...] | None
    scorer: str
    loss_weight: float = 1.0


# The last word of a task's name -> its family. Image-text matching has two: over captions and over
# questions with answers.
FAMILIES = {
    "visual_grounding": Family(
        family="visual_grounding",
        instruction=instructions.VISUAL_GROUNDING,
        prepare=(
            KeepOneReferring(),
            DecodeImage(),
            CheckBoxes(),
            CropAroundObject(),
            ChooseReferring(),
            clean_caption(max_words=80),
        ),
        eval_prepare=(
            KeepOneReferring(),
            DecodeImage(),
            CheckBoxes(),
            StretchToSquare(),
            ChooseReferring(),
            clean_caption(max_words=80),
        ),
        scorer="region",
    ),
    "grounded_captioning": Family(
        family="grounded_captioning",
        instruction=instructions.GROUNDED_CAPTIONING,
        prepare=(
            KeepOneReferring(),
            DecodeImage(),
            CheckBoxes(),
            CropAroundObject(),
            ChooseReferring(),
            clean_caption(),
        ),
        eval_prepare=(
            KeepOneReferring(optional=True),
            DecodeImage(),
            CheckBoxes(),
            StretchToSquare(),
            ChooseReferring(optional=True),
            clean_caption(optional=True),
        ),
        scorer="description",
    ),
    "vqa": Family(
        family="vqa",
        instruction=instructions.VQA,
        prepare=(DecodeImage(), AugmentForText(), LikeliestAnswer(), clean_question()),
        eval_prepare=(DecodeImage(), StretchToSquare(), LikeliestAnswer(), clean_question()),
        scorer="answer",
    ),
    "image_text_matching": Family(
        family="image_text_matching",
        instruction=instructions.IMAGE_TEXT_MATCHING,
        prepare=(
            DecodeImage(),
            AugmentForText(),
            Choose("captions", "caption"),
            MatchCaption(NEGATIVES),
            clean_caption(max_words=80),
        ),
        eval_prepare=(
            DecodeImage(),
            StretchToSquare(),
            Choose("captions", "caption"),
            MatchCaption(NEGATIVES),
            clean_caption(max_words=80),
        ),
        scorer="answer",
    ),
    "answer_matching": Family(
        family="image_text_matching",
        instruction=instructions.ANSWER_MATCHING,
        prepare=(
            DecodeImage(),
            AugmentForText(),
            LikeliestAnswer(),
            MatchAnswer(NEGATIVES),
            clean_question(),
        ),
        eval_prepare=(
            DecodeImage(),
            StretchToSquare(),
            LikeliestAnswer(),
            MatchAnswer(NEGATIVES),
            clean_question(),
        ),
        scorer="answer",
    ),
    "captioning": Family(
        family="captioning",
        instruction=instructions.CAPTIONING,
        prepare=(
            DecodeImage(),
            AugmentForText(),
            Choose("captions", "caption"),
            clean_caption(),
            SkipNoisyStart(),
        ),
        eval_prepare=(
            DecodeImage(),
            StretchToSquare(),
            Choose("captions", "caption", optional=True),
            clean_caption(optional=True),
        ),
        scorer="reference_caption",
    ),
    "detection": Family(
        family="detection",
        instruction=instructions.DETECTION,
        prepare=(DecodeImage(), CheckBoxes(), JitterScene()),
        eval_prepare=(DecodeImage(), CheckBoxes(), StretchToSquare()),
        scorer="objects",
        loss_weight=2.0,
    ),
    "image_infilling": Family(
        family="image_infilling",
        instruction=instructions.IMAGE_INFILLING,
        prepare=(DecodeImage(), StretchToSquare()),
        eval_prepare=None,
        scorer="codes",
        loss_weight=2.0,
    ),
    "text_infilling": Family(
        family="text_infilling",
        instruction=instructions.TEXT_INFILLING,
        prepare=(LowerCase(),),
        eval_prepare=None,
        scorer="filled_text",
        loss_weight=2.0,
    ),
}


def add_of_family(
    name: str,
    family: str,
    source: Source,
    *,
    first_steps: Sequence[Step] = (),
    splits: Sequence[str] = ("train", "validation"),
) -> OFATask:
    """Registers a task of one family over a source.

    Args:
      name: registered name.
      family: key of `FAMILIES`.
      source: where the examples come from.
      first_steps: run before the family's own steps.
      splits: splits that the source may have.

    Returns:
      The task.
    """
    shared = FAMILIES[family]
    evaluated = shared.eval_prepare
    return add_task(
        name,
        shared.instruction,
        family=shared.family,
        source=source,
        tokenizer=VOCABULARY,
        prepare=(*first_steps, *shared.prepare),
        eval_prepare=None if evaluated is None else (*first_steps, *evaluated),
        scorer=shared.scorer,
        loss_weight=shared.loss_weight,
        splits=splits,
    )

"""The eight pretraining tasks over the official TSV files (SPEC 4).

Files lie in the folder `DATA_DIR`, named as in the official release, and those of the validation
split under the same names in its folder `validation`; the vocabulary lies in
`VOCAB_DIR` (GPT-2's `encoder.json`, `vocab.bpe`, `dict.txt`, or a HuggingFace OFA folder).
"""

import functools

from ofa_jax.data.image_steps import (
    AugmentForText,
    CheckBoxes,
    CropAroundObject,
    DecodeImage,
    JitterScene,
    StretchToSquare,
)
from ofa_jax.data.matching_steps import BestAnswer, MatchAnswer, MatchCaption, SkipNoisyStart
from ofa_jax.data.official_tokenizer import official_tokenizer
from ofa_jax.data.registration import add_task
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.steps import (
    ChooseReferring,
    ChooseRegion,
    LowerCase,
    clean_caption,
    clean_question,
)
from tasks import instructions

NEGATIVES = "{DATA_DIR}/negative_sample"


def _source(file: str, layout: str, *types: str) -> TsvSource:
    paths = {"train": f"{{DATA_DIR}}/{file}", "validation": f"{{DATA_DIR}}/validation/{file}"}
    return TsvSource(tuple(paths.items()), layout, types)


_pairs = functools.partial(_source, "vision_language_examples.tsv", "vision_language")
_add = functools.partial(add_task, tokenizer=functools.partial(official_tokenizer, "{VOCAB_DIR}"))

_add(
    "ofa_visual_grounding",
    instructions.VISUAL_GROUNDING,
    family="visual_grounding",
    source=_pairs("visual_grounding"),
    prepare=[
        DecodeImage(),
        CheckBoxes(),
        CropAroundObject(),
        ChooseReferring(),
        clean_caption(max_words=80),
    ],
    eval_prepare=[
        DecodeImage(),
        CheckBoxes(),
        StretchToSquare(),
        ChooseReferring(),
        clean_caption(max_words=80),
    ],
    scorer="region",
)
_add(
    "ofa_grounded_captioning",
    instructions.GROUNDED_CAPTIONING,
    family="grounded_captioning",
    source=_pairs("visual_grounding"),
    prepare=[DecodeImage(), CheckBoxes(), CropAroundObject(), ChooseRegion(), clean_caption()],
    eval_prepare=[DecodeImage(), CheckBoxes(), StretchToSquare(), ChooseRegion(), clean_caption()],
    scorer="description",
)
_add(
    "ofa_vqa",
    instructions.VQA,
    family="vqa",
    source=_pairs("qa"),
    prepare=[DecodeImage(), AugmentForText(), BestAnswer(), clean_question()],
    eval_prepare=[DecodeImage(), StretchToSquare(), BestAnswer(), clean_question()],
    scorer="answer",
)
_add(
    "ofa_image_text_matching",
    instructions.IMAGE_TEXT_MATCHING,
    family="image_text_matching",
    source=_pairs("caption"),
    prepare=[
        DecodeImage(),
        AugmentForText(),
        MatchCaption(NEGATIVES),
        clean_caption(max_words=80),
    ],
    eval_prepare=[
        DecodeImage(),
        StretchToSquare(),
        MatchCaption(NEGATIVES),
        clean_caption(max_words=80),
    ],
    scorer="answer",
)
_add(
    "ofa_answer_matching",
    instructions.ANSWER_MATCHING,
    family="image_text_matching",
    source=_pairs("qa"),
    prepare=[
        DecodeImage(),
        AugmentForText(),
        BestAnswer(),
        MatchAnswer(NEGATIVES),
        clean_question(),
    ],
    eval_prepare=[
        DecodeImage(),
        StretchToSquare(),
        BestAnswer(),
        MatchAnswer(NEGATIVES),
        clean_question(),
    ],
    scorer="answer",
)
_add(
    "ofa_captioning",
    instructions.CAPTIONING,
    family="captioning",
    source=_pairs("caption"),
    prepare=[DecodeImage(), AugmentForText(), clean_caption(), SkipNoisyStart()],
    eval_prepare=[DecodeImage(), StretchToSquare(), clean_caption()],
    scorer="reference_caption",
)
_add(
    "ofa_detection",
    instructions.DETECTION,
    family="detection",
    source=_source("detection_examples.tsv", "detection"),
    prepare=[DecodeImage(), CheckBoxes(), JitterScene()],
    eval_prepare=[DecodeImage(), CheckBoxes(), StretchToSquare()],
    scorer="objects",
    loss_weight=2.0,
)
_add(
    "ofa_image_infilling",
    instructions.IMAGE_INFILLING,
    family="image_infilling",
    source=_source("image_examples.tsv", "image"),
    prepare=[DecodeImage(), StretchToSquare()],
    scorer="codes",
    loss_weight=2.0,
)
_add(
    "ofa_text_infilling",
    instructions.TEXT_INFILLING,
    family="text_infilling",
    source=_source("text_examples.tsv", "text"),
    prepare=[LowerCase()],
    scorer="filled_text",
    loss_weight=2.0,
)

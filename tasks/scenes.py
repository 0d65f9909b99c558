"""The eight pretraining tasks over the embedded `scenes` world, one that is never trained,
captioning with rewards.
"""

import dataclasses
import functools

from ofa_jax.data.steps.finetuning import AllReferences
from ofa_jax.data.steps.image import EncodeImage
from ofa_jax.data.steps.selection import (
    Choose,
    ChooseMatch,
    ChooseQuestion,
    ChooseReferring,
    ChooseRegion,
    ChooseRegionQuestion,
)
from ofa_jax.data.tasks.registration import add_task
from ofa_jax.scenes.filling import FilledSentences
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.source import ScenesSplits
from ofa_jax.scenes.tokenizers import scenes_codebook, scenes_tokenizer
from ofa_jax.scenes.views import (
    MatchViews,
    QuestionViews,
    ReferringViews,
    SceneViews,
    SentenceViews,
)

from . import instructions

# Their words become single tokens, beside those of the grammar.
INSTRUCTIONS = (
    instructions.VISUAL_GROUNDING,
    instructions.GROUNDED_CAPTIONING,
    instructions.IMAGE_TEXT_MATCHING,
    instructions.CAPTIONING,
    instructions.DETECTION,
    instructions.IMAGE_INFILLING,
    instructions.TEXT_INFILLING,
)
SPLITS = ("train", "validation", "test", "compositions", "unseen_style")


def add_scenes_tasks(prefix: str, preset: str) -> None:
    """Registers `<prefix>_visual_grounding` and so on over one preset of the world."""
    encode = EncodeImage(functools.partial(scenes_codebook, preset))
    add = functools.partial(
        add_task,
        source=ScenesSplits(preset),
        tokenizer=functools.partial(scenes_tokenizer, preset, INSTRUCTIONS),
        splits=SPLITS,
    )
    add(
        f"{prefix}_visual_grounding",
        instructions.VISUAL_GROUNDING,
        family="visual_grounding",
        prepare=[ChooseReferring()],
        scorer="region",
    )
    add(
        f"{prefix}_grounded_captioning",
        instructions.GROUNDED_CAPTIONING,
        family="grounded_captioning",
        prepare=[ChooseRegion()],
        scorer="description",
    )
    add(
        f"{prefix}_vqa",
        instructions.VQA,
        family="vqa",
        prepare=[ChooseQuestion()],
        scorer="answer_by_kind",
    )
    add(
        f"{prefix}_image_text_matching",
        instructions.IMAGE_TEXT_MATCHING,
        family="image_text_matching",
        prepare=[ChooseMatch()],
        scorer="answer",
    )
    add(
        f"{prefix}_captioning",
        instructions.CAPTIONING,
        family="captioning",
        prepare=[Choose("captions", "caption")],
        scorer="true_caption",
    )
    # Attributes apart: images in which a color or a shape has no name, so that each is learnt by
    # itself (docs/composition.md). First what names.
    add(
        f"{prefix}_grounded_captioning_apart",
        instructions.GROUNDED_CAPTIONING,
        family="grounded_captioning",
        prepare=[SceneViews(preset), ChooseRegion()],
        eval_prepare=[ChooseRegion()],
        scorer="description",
    )
    add(
        f"{prefix}_captioning_apart",
        instructions.CAPTIONING,
        family="captioning",
        prepare=[SceneViews(preset), Choose("captions", "caption")],
        eval_prepare=[Choose("captions", "caption")],
        scorer="true_caption",
    )
    add(
        f"{prefix}_detection_apart",
        instructions.DETECTION,
        family="detection",
        prepare=[SceneViews(preset)],
        eval_prepare=[],
        scorer="objects",
        loss_weight=2.0,
    )
    # And the others, whose images and words would tell which shapes a color has.
    add(
        f"{prefix}_visual_grounding_apart",
        instructions.VISUAL_GROUNDING,
        family="visual_grounding",
        prepare=[ReferringViews(preset)],
        eval_prepare=[ChooseReferring()],
        scorer="region",
    )
    add(
        f"{prefix}_image_infilling_apart",
        instructions.IMAGE_INFILLING,
        family="image_infilling",
        prepare=[SceneViews(preset), encode],
        eval_prepare=[encode],
        scorer="codes",
        loss_weight=2.0,
    )
    add(
        f"{prefix}_vqa_apart",
        instructions.VQA,
        family="vqa",
        prepare=[ChooseQuestion(), QuestionViews(preset)],
        eval_prepare=[ChooseQuestion()],
        scorer="answer_by_kind",
    )
    add(
        f"{prefix}_text_infilling_apart",
        instructions.TEXT_INFILLING,
        family="text_infilling",
        prepare=[SentenceViews(preset)],
        eval_prepare=[],
        scorer=FilledSentences(preset),
        loss_weight=2.0,
    )
    add(
        f"{prefix}_image_text_matching_apart",
        (instructions.IMAGE_TEXT_MATCHING, instructions.REGION_MATCHING),
        family="image_text_matching",
        prepare=[MatchViews(preset)],
        eval_prepare=[ChooseMatch()],
        scorer="answer",
    )
    # The target holds all references, of which the rewards are made; see trainer.Trainer.objective.
    add(
        f"{prefix}_captioning_scst",
        instructions.CAPTIONING,
        family="captioning",
        prepare=[AllReferences()],
        scorer="true_caption",
    )
    add(
        f"{prefix}_detection",
        instructions.DETECTION,
        family="detection",
        scorer="objects",
        loss_weight=2.0,
    )
    add(
        f"{prefix}_image_infilling",
        instructions.IMAGE_INFILLING,
        family="image_infilling",
        prepare=[encode],
        scorer="codes",
        loss_weight=2.0,
    )
    add(
        f"{prefix}_text_infilling",
        instructions.TEXT_INFILLING,
        family="text_infilling",
        scorer=FilledSentences(preset),
        loss_weight=2.0,
    )
    add(
        f"{prefix}_grounded_vqa",
        instructions.GROUNDED_VQA,
        family="grounded_vqa",
        prepare=[ChooseRegionQuestion()],
        scorer="region_answer",
    )


add_scenes_tasks("scenes", "tiny")
add_scenes_tasks("scenes_small", "small")
add_scenes_tasks("scenes_base", "base")

# Something to adapt to: the world of the quickstart, drawn in the styles that it never shows.
_tiny = preset("tiny")
add_task(
    "scenes_sketched_visual_grounding",
    instructions.VISUAL_GROUNDING,
    family="visual_grounding",
    source=ScenesSplits(
        dataclasses.replace(_tiny, styles=_tiny.unseen_styles, unseen_styles=_tiny.styles)
    ),
    tokenizer=functools.partial(scenes_tokenizer, "tiny", INSTRUCTIONS),
    splits=SPLITS,
    prepare=[ChooseReferring()],
    scorer="region",
)

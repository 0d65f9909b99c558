"""The eight pretraining tasks over the embedded `scenes` world, one that is never trained,
captioning with rewards.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from ofa_jax.data.steps import Step
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

    def add_variants(
        family: str,
        instruction: str,
        prepare: Sequence[Step],
        apart: Sequence[Step],
        region: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """A task, its twin for schedules, and one with attributes apart, which evaluate alike."""
        for variant in (family, f"{family}_together"):
            add(f"{prefix}_{variant}", instruction, family=family, prepare=prepare, **options)
        add(
            f"{prefix}_{family}_apart",
            (instruction, *region),
            family=family,
            prepare=apart,
            eval_prepare=prepare,
            **options,
        )

    add(
        f"{prefix}_visual_grounding",
        instructions.VISUAL_GROUNDING,
        family="visual_grounding",
        prepare=[ChooseReferring()],
        scorer="region",
    )
    # Apart, no image or text tells which shapes a color has: one of the two has no name
    # (docs/composition.md).
    views = SceneViews(preset)
    add_variants(
        "grounded_captioning",
        instructions.GROUNDED_CAPTIONING,
        [ChooseRegion()],
        [views, ChooseRegion()],
        scorer="description",
    )
    add_variants(
        "vqa",
        instructions.VQA,
        [ChooseQuestion()],
        [ChooseQuestion(), QuestionViews(preset)],
        scorer="answer_by_kind",
    )
    add_variants(
        "image_text_matching",
        instructions.IMAGE_TEXT_MATCHING,
        [ChooseMatch()],
        [MatchViews(preset)],
        region=(instructions.REGION_MATCHING,),
        scorer="answer",
    )
    add_variants(
        "captioning",
        instructions.CAPTIONING,
        [Choose("captions", "caption")],
        [views, Choose("captions", "caption")],
        scorer="true_caption",
    )
    add_variants(
        "detection",
        instructions.DETECTION,
        [],
        [views],
        scorer="objects",
        loss_weight=2.0,
    )
    add_variants(
        "image_infilling",
        instructions.IMAGE_INFILLING,
        [encode],
        [views, encode],
        scorer="codes",
        loss_weight=2.0,
    )
    add_variants(
        "text_infilling",
        instructions.TEXT_INFILLING,
        [],
        [SentenceViews(preset)],
        scorer=FilledSentences(preset),
        loss_weight=2.0,
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

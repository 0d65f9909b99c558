"""Questions about the embedded `scenes` world, answered from the closed set of its answers.

The same questions as `scenes_vqa`, decoded inside a trie of all colours, shapes, sizes,
backgrounds, numbers, yes and no; as VQAv2 is answered (SPEC 7.2). For a model trained on the
world: evaluate with `--task=scenes_vqa_closed`.
"""

import functools

from ofa_jax.data.steps.selection import ChooseQuestion
from ofa_jax.data.tasks.answering import Answering, AnswerList
from ofa_jax.data.tasks.registration import add_task
from ofa_jax.scenes.presets import PRESETS, ScenesConfig
from ofa_jax.scenes.source import ScenesSplits
from ofa_jax.scenes.tokenizers import scenes_tokenizer

from . import instructions
from .scenes import INSTRUCTIONS, SPLITS


def possible_answers(world: ScenesConfig) -> tuple[str, ...]:
    """Every answer that a question about a scene of this world can have, each once."""
    numbers = map(str, range(max(world.object_counts) + 1))
    names = (*world.colors, *world.shapes, *world.size_names, *world.backgrounds)
    return tuple(dict.fromkeys((*names, *numbers, "yes", "no")))


for prefix, preset in (("scenes", "tiny"), ("scenes_small", "small"), ("scenes_base", "base")):
    add_task(
        f"{prefix}_vqa_closed",
        instructions.VQA,
        family="vqa",
        source=ScenesSplits(preset),
        tokenizer=functools.partial(scenes_tokenizer, preset, INSTRUCTIONS),
        splits=SPLITS,
        prepare=[ChooseQuestion()],
        scorer="answer_by_kind",
        answering=Answering(
            answers=AnswerList(possible_answers(PRESETS[preset])), decoding={"beam": 5}
        ),
    )

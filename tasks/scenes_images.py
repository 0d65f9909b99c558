"""Text to image over the embedded `scenes` world: a caption becomes the codes of the whole image.

What is written is read back (`ofa_jax.scenes.read`) and graded by the truth of its caption.
`<prefix>_text_to_image` is trained; `..._single` and `..._relation` ask for one object, and for two
that stand in a relation, in evaluation; with `_ranked` the model draws several images and its own
matching answer chooses one.
"""

import dataclasses
import functools
from typing import Any

from ofa_jax.data.steps.image import EncodeImage
from ofa_jax.data.steps.selection import Choose
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.data.tasks.registration import add_task
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.source import ScenesSplits
from ofa_jax.scenes.tokenizers import scenes_codebook, scenes_tokenizer

from . import instructions
from .scenes import INSTRUCTIONS, SPLITS

# Of two objects, half of the captions say how they stand: it is what is learnt last.
TRAINED: dict[str, object] = {
    "caption_forms": ("list_background", "relation", "relation", "single"),
    "num_captions": 4,
}
# Images of one object, and of two of different kinds, with captions that say all of it.
WORLDS: dict[str, dict[str, object]] = {
    "single": {"object_counts": (1,), "caption_forms": ("single",)},
    "relation": {"object_counts": (2,), "caption_forms": ("relation",)},
}
VARIANTS = ("single", "single_ranked", "relation", "relation_ranked")
DECODING = {"top_p": 0.6, "guidance": 2.0}
CANDIDATES = 8


def add_image_tasks(prefix: str, name: str) -> None:
    """Registers `<prefix>_text_to_image` and so on over one preset of the world."""
    first = Answering(method="sampling", decoding=dict(DECODING), empty_prompts=0.1)
    ranked = dataclasses.replace(
        first,
        decoding={**DECODING, "samples": CANDIDATES},
        ranking=instructions.IMAGE_TEXT_MATCHING,
    )
    variants: dict[str, tuple[dict[str, Any], Answering]] = {"": (TRAINED, first)}
    for variant in VARIANTS:
        world = WORLDS[variant.removesuffix("_ranked")]
        variants[f"_{variant}"] = (world, ranked if variant.endswith("_ranked") else first)
    for ending, (world, answering) in variants.items():
        add_task(
            f"{prefix}_text_to_image{ending}",
            instructions.TEXT_TO_IMAGE,
            family=f"text_to_image{ending}",
            source=ScenesSplits(dataclasses.replace(preset(name), **world)),
            tokenizer=functools.partial(scenes_tokenizer, name, INSTRUCTIONS),
            splits=SPLITS,
            prepare=[
                Choose("captions", "text"),
                EncodeImage(functools.partial(scenes_codebook, name), part="whole"),
            ],
            scorer="true_image",
            answering=answering,
        )


add_image_tasks("scenes", "tiny")
add_image_tasks("scenes_small", "small")
add_image_tasks("scenes_base", "base")

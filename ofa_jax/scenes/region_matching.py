"""Whether a description is that of a region: a second task, beside describing, that speaks of one.

A model that meets "region:" in one task only takes the word for that task's name
(docs/composition.md).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.scenes.descriptions import describe
from ofa_jax.scenes.presets import ScenesConfig, preset
from ofa_jax.scenes.world import Scene

# Share of the false descriptions that are true of another object of the image, where there is one.
_SHARE_OF_NEIGHBORS = 0.6


@dataclasses.dataclass(frozen=True)
class ChooseRegionMatch:
    """Sets `region`, `caption` (true of it half of the time) and `answer` (yes or no).

    A false description is that of another object, or has another color or shape. It names no pair
    that is held out, which would teach that there is no such thing.

    Attributes:
      preset: the world, a name in `presets.PRESETS` or a configuration.
    """

    preset: str | ScenesConfig = "tiny"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        config, scene = preset(self.preset), Scene.from_dict(example["scene"])
        number = int(rng.integers(len(scene.objects)))
        noun = describe(scene.objects[number])
        chosen = {**example, "region": np.asarray(example["boxes"][number], np.float32)}
        if rng.integers(2):
            return {**chosen, "caption": noun.indefinite, "answer": "yes"}
        others = [other for o in scene.objects if (other := describe(o)) != noun]
        if not others or rng.random() >= _SHARE_OF_NEIGHBORS:
            others = [
                *(dataclasses.replace(noun, color=c) for c in config.colors if c != noun.color),
                *(dataclasses.replace(noun, shape=s) for s in config.shapes if s != noun.shape),
            ]
            others = [other for other in others if other.pair not in config.held_out]
        false = others[int(rng.integers(len(others)))]
        return {**chosen, "caption": false.indefinite, "answer": "no"}

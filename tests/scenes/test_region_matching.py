"""Descriptions of regions, true and false."""

import numpy as np
import pytest

from ofa_jax.scenes.descriptions import describe
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.region_matching import ChooseRegionMatch
from ofa_jax.scenes.source import ScenesSource


@pytest.mark.parametrize("world", ["tiny", "small", "base"])
def test_answers_are_right_and_no_held_out_pair_is_named(world):
    config, source, rng = preset(world), ScenesSource(world), np.random.default_rng(0)
    step, answers, of_neighbors = ChooseRegionMatch(world), [], 0
    for index in range(500):
        example = step(source[index], rng)
        scene = source.scene(index)
        number = next(i for i, o in enumerate(scene.objects) if (o.box == example["region"]).all())
        truth = describe(scene.objects[number]).indefinite
        assert example["answer"] == ("yes" if example["caption"] == truth else "no")
        words = example["caption"].split()
        assert not any(color in words and shape in words for color, shape in config.held_out)
        if example["answer"] == "no":
            others = [describe(o).indefinite for i, o in enumerate(scene.objects) if i != number]
            of_neighbors += example["caption"] in others
            # A word or two are wrong, not all that is said.
            assert words[-1] in config.shapes
        answers.append(example["answer"])
    assert np.mean([answer == "yes" for answer in answers]) == pytest.approx(0.5, abs=0.08)
    assert of_neighbors > 50

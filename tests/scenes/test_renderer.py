"""The painter: what is painted fills its box, and nothing else is painted."""

import numpy as np
import pytest

from ofa_jax.scenes import presets, renderer, world
from ofa_jax.scenes.presets import STYLES
from ofa_jax.scenes.source import ScenesSource


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", presets.SHAPES)
def test_shapes_fill_their_box(shape, style):
    for side in (10, 13, 16, 33):
        coverage, _ = renderer.shape_layers(shape, side, style)
        assert coverage.shape == (side, side, 1)
        assert 0 <= coverage.min() <= coverage.max() <= 1
        painted = coverage[..., 0]
        assert _extent(painted > 0) == (0, 0, side, side)
        seen = _extent(painted > 0.15)
        assert max(abs(a - b) for a, b in zip(seen, (0, 0, side, side))) <= 1


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
@pytest.mark.parametrize("split", ["train", "unseen_style"])
def test_painted_extent_equals_the_box(preset, split):
    source = ScenesSource(preset, split)
    for index in range(40):
        scene = source.scene(index)
        image = renderer.render(scene)
        assert image.shape == (scene.pixels, scene.pixels, 3)
        assert image.dtype == np.uint8
        background = np.array(presets.BACKGROUNDS[scene.background])
        painted = (image != background).any(-1)
        for o in scene.objects:
            x0, y0, x1, y1 = o.box
            extent = _extent(painted[y0:y1, x0:x1])
            differences = np.subtract(extent, (0, 0, x1 - x0, y1 - y0))
            assert abs(differences).max() <= 1
            painted[y0:y1, x0:x1] = False
        assert not painted.any(), "something was painted outside all boxes"


def test_solid_objects_have_their_colour():
    for color, rgb in presets.COLORS.items():
        for brightness in (-12, 0, 12):
            thing = world.SceneObject(color, "square", "", (8, 8, 20, 20), brightness)
            image = renderer.render(world.Scene(32, "gray", "solid", (thing,)))
            assert (image[14, 14] == np.clip(np.add(rgb, brightness), 0, 255)).all()
            assert (image[2, 2] == presets.BACKGROUNDS["gray"]).all()


def test_styles_look_different():
    thing = world.SceneObject("orange", "circle", "", (4, 4, 28, 28))
    images = [renderer.render(world.Scene(32, "white", style, (thing,))) for style in STYLES]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.abs(image.astype(int) - other).mean() > 1


def test_shapes_and_backgrounds_look_different():
    images = []
    for shape in presets.SHAPES:
        thing = world.SceneObject("red", shape, "", (8, 8, 18, 18))
        images.append(renderer.render(world.Scene(32, "white", "solid", (thing,))))
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.abs(image[8:18, 8:18].astype(int) - other[8:18, 8:18]).mean() > 6
    colours = [*presets.BACKGROUNDS.values(), *presets.COLORS.values()]
    for i, colour in enumerate(colours):
        for other in colours[:i]:
            assert np.linalg.norm(np.subtract(colour, other)) > 60


def test_images_do_not_share_memory():
    scene = ScenesSource("tiny").scene(0)
    first = renderer.render(scene)
    kept = first.copy()
    first[:] = 0
    assert (renderer.render(scene) == kept).all()


def test_unknown_shape_and_style_are_named():
    with pytest.raises(ValueError, match="blob"):
        renderer.shape_layers("blob", 8, "solid")
    with pytest.raises(ValueError, match="dotted"):
        renderer.shape_layers("circle", 8, "dotted")

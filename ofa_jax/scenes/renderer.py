"""The painter of `scenes`: scene graph in, uint8 image out.

Each shape is sampled on a grid four times finer than the pixels, so edges are anti-aliased, and
cached by (shape, side, style): painting an object is then one blend of a small array. A shape
fills its box exactly: the first and last row and column of the box hold some paint.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ofa_jax.scenes import presets, world

SUPERSAMPLING = 4
_HATCH_PERIOD = 5.0
_HATCH_FAINT = 0.2
_RIM_DARKNESS = 0.62
_LIT_STYLES = ("shaded", "rimmed")


def _star() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1)


def _cross() -> np.ndarray:
    a, b = 0.32, 0.68
    points = [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1)]
    return np.array([*points, (a, b), (0, b), (0, a), (a, a)], np.float64)


# Shapes without a name, see `forms`: how many there are, and how much of its surface and that of a
# shape with a name may be common to both.
_NUM_FORMS = 48
_MOST_ALIKE = 0.75


def _unit(corners: np.ndarray) -> np.ndarray:
    """The polygon, stretched to the unit square."""
    low, high = corners.min(0), corners.max(0)
    return (corners - low) / (high - low)


@functools.cache
def _form_outlines() -> dict[str, np.ndarray]:
    """Polygons of five to nine corners at random distances, unlike every shape with a name."""
    axis = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(axis, axis)
    named = [_inside(_outline(shape), x, y) for shape in presets.SHAPES]
    rng = np.random.Generator(np.random.Philox(0))
    found: dict[str, np.ndarray] = {}
    while len(found) < _NUM_FORMS:
        count = int(rng.integers(5, 10))
        angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        angles += rng.uniform(0, 2 * np.pi)
        radii = rng.uniform(0.3, 1.0, count)
        corners = _unit(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))
        inside = _inside(corners, x, y)
        if all((inside & other).sum() < _MOST_ALIKE * (inside | other).sum() for other in named):
            found[f"form_{len(found)}"] = corners
    return found


def forms() -> tuple[str, ...]:
    """Shapes that have no name in any world and resemble none that has one."""
    return tuple(_form_outlines())


@functools.cache
def _outline(shape: str) -> np.ndarray:
    """float64[corners, 2]: the polygon of a shape, stretched to the unit square."""
    if shape == "square":
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)
    elif shape == "triangle":
        corners = np.array([(0.5, 0), (1, 1), (0, 1)], np.float64)
    elif shape == "circle":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif shape in presets.SHAPES:
        corners = {"cross": _cross, "star": _star, "heart": _heart}[shape]()
    else:
        return _form_outlines()[shape]
    return _unit(corners)


def _inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool[...]: which points lie in a polygon, by the even-odd rule."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _edge_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64[...]: distance of points to the nearest side of a polygon."""
    points = np.stack([x, y], axis=-1)
    nearest = np.full(x.shape, np.inf)
    for start, end in zip(corners, np.roll(corners, -1, axis=0)):
        side = end - start
        along = np.clip(((points - start) @ side) / max(side @ side, 1e-12), 0, 1)
        gap = points - (start + along[..., None] * side)
        nearest = np.minimum(nearest, np.hypot(gap[..., 0], gap[..., 1]))
    return nearest


@functools.lru_cache(maxsize=16)
def _sampled(shape: str, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(corners, x, y, bool whether inside) of the sample points of a shape in its box."""
    corners = _outline(shape) * side
    axis = (np.arange(side * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid(axis, axis)
    return corners, x, y, _inside(corners, x, y)


@functools.lru_cache(maxsize=16)
def _distances(shape: str, side: int) -> np.ndarray:
    """float64[...]: distance of the sample points to the nearest edge."""
    return _edge_distance(*_sampled(shape, side)[:3])


@functools.cache
def shape_layers(shape: str, side: int, style: str) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and light of a shape.

    Args:
      shape: name in `presets.SHAPES`, or one of `forms`.
      side: side of the box in pixels.
      style: "solid" (one flat colour), "shaded" (lit from above), "rimmed" (with a darker rim),
        "outlined" (a contour, hollow inside) or "hatched" (diagonal stripes).

    Returns:
      (coverage float32[side, side, 1] in 0..1, light float32[side, side, 1]: factor on the
      colour). The arrays are shared: do not write to them.

    Raises:
      ValueError: for an unknown shape or style.
    """
    if shape not in presets.SHAPES and shape not in _form_outlines():
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(presets.SHAPES)}")
    _, x, y, inside = _sampled(shape, side)
    covered = inside.astype(np.float64)
    light = np.ones_like(covered)
    if style == "shaded":
        light = 1.14 - 0.38 * (0.3 * x + 0.7 * y) / side
    elif style == "rimmed":
        rim = max(1.2, side / 14)
        light = np.where(_distances(shape, side) < rim, _RIM_DARKNESS, 1.0)
    elif style == "outlined":
        covered *= _distances(shape, side) < max(1.5, side / 9)
    elif style == "hatched":
        period = max(_HATCH_PERIOD, side / 5)
        covered *= np.where((x + y) % period < period / 2, 1.0, _HATCH_FAINT)
    elif style != "solid":
        raise ValueError(f"unknown drawing style {style!r}")
    fine = (side, SUPERSAMPLING, side, SUPERSAMPLING)
    coverage = covered.reshape(fine).mean((1, 3))[..., None].astype(np.float32)
    shading = light.reshape(fine).mean((1, 3))[..., None].astype(np.float32)
    coverage.setflags(write=False)
    shading.setflags(write=False)
    return coverage, shading


@functools.cache
def _canvas(background: str, pixels: int) -> np.ndarray:
    return np.broadcast_to(
        np.array(presets.BACKGROUNDS[background], np.float32), (pixels, pixels, 3)
    ).copy()


def render(
    scene: world.Scene,
    paints: Sequence[tuple[float, float, float]] | None = None,
    wear: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Paints a scene.

    Args:
      scene: the scene graph; its shapes may be `forms`.
      paints: red, green and blue (0..255) of each object in the place of its color.
      wear: float32[side, side, 1] in 0..1 of each object, or None: what is left of its paint.

    Returns:
      uint8[y, x, 3] image of `scene.pixels` squared, RGB.
    """
    canvas = _canvas(scene.background, scene.pixels).copy()
    if paints is None:
        paints = [presets.COLORS[o.color] for o in scene.objects]
    for o, rgb, left in zip(scene.objects, paints, wear or [None] * len(paints), strict=True):
        x0, y0, x1, y1 = o.box
        coverage, light = shape_layers(o.shape, x1 - x0, scene.style)
        if left is not None:
            coverage = coverage * left
        paint = np.array(rgb, np.float32) + np.float32(o.brightness)
        if scene.style in _LIT_STYLES:
            paint = paint * light
        paint = np.clip(paint, 0, 255)
        region = canvas[y0:y1, x0:x1]
        region += (paint - region) * coverage
    canvas += 0.5
    return canvas.astype(np.uint8)

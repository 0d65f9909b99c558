"""The reader of `scenes`: uint8 image in, scene graph out. The inverse of `renderer`.

Without a network: parts that stand out from the background are fitted with every shape in every
drawing style, and the scene that paints the image best is taken. On painted images it is exact; on
images that a model wrote it finds what they resemble most, so that `truth(read(image), caption)`
grades them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from ofa_jax.scenes.presets import BACKGROUNDS, COLORS, PRESETS, ScenesConfig, preset
from ofa_jax.scenes.renderer import render, shape_layers
from ofa_jax.scenes.world import Scene, SceneObject

Box = tuple[int, int, int, int]

# Largest difference of a channel that still is background: painted, clean and blurred images.
_TOLERANCES = (0, 12, 32)
# A part whose bounding box has less than this share of the smallest object's is a blot.
_SMALLEST_PART = 0.4
# Mean squared difference (of 0..255) at which an image counts as painted by its scene.
_EXACT = 0.3
_NEIGHBORS = (-1, 0, 1)


def read(pixels: np.ndarray, world: str | ScenesConfig | None = None) -> Scene:
    """Reads a scene off an image.

    Args:
      pixels: uint8[y, x, 3] image of a world of `presets`, RGB.
      world: preset or configuration; None is the preset of this size.

    Returns:
      The scene that paints the image best among those found; it may have no objects. Blots and
      parts that resemble nothing are not told apart from objects unless they are much smaller.

    Raises:
      ValueError: another dtype or shape, or a size that the world does not have.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"an image is uint8[y, x, 3], got {pixels.dtype}{list(pixels.shape)}")
    config = preset(world) if world is not None else _world_of(pixels)
    if pixels.shape[:2] != (config.pixels, config.pixels):
        raise ValueError(
            f"images of scenes {config.name!r} have {config.pixels}x{config.pixels} pixels, "
            f"got {pixels.shape[1]}x{pixels.shape[0]}"
        )
    best, least = Scene(config.pixels, config.backgrounds[0], config.styles[0], ()), np.inf
    image = pixels.astype(np.float32)
    background = _background(image, config)
    for parts in _segmentations(image, background, config):
        scene = _fit(image, background, parts, config)
        error = float(np.square(render(scene) - image).mean())
        if error < least:
            best, least = scene, error
        if least < _EXACT:
            break
    return best


def _world_of(pixels: np.ndarray) -> ScenesConfig:
    for config in PRESETS.values():
        if pixels.shape[:2] == (config.pixels, config.pixels):
            return config
    known = ", ".join(f"{c.pixels}x{c.pixels} ({c.name})" for c in PRESETS.values())
    raise ValueError(
        f"no preset of scenes has images of {pixels.shape[1]}x{pixels.shape[0]} pixels; known: "
        f"{known}"
    )


def _background(image: np.ndarray, config: ScenesConfig) -> str:
    """The background that is nearest to the most pixels, paint competing for them."""
    paints = [BACKGROUNDS[name] for name in config.backgrounds]
    nearest = _nearest(image, paints + [COLORS[name] for name in config.colors])
    counts = np.bincount(nearest.ravel(), minlength=len(paints))[: len(paints)]
    return config.backgrounds[int(counts.argmax())]


def _nearest(image: np.ndarray, paints: list[tuple[int, int, int]]) -> np.ndarray:
    """int[y, x]: number of the nearest paint of each pixel."""
    table = np.array(paints, np.float32)
    return (np.square(table).sum(-1) - 2 * image @ table.T).argmin(-1)


def _segmentations(
    image: np.ndarray, background: str, config: ScenesConfig
) -> Iterator[list[np.ndarray]]:
    """Ways to cut an image into parts, bool[y, x] each, the surest first."""
    distance = np.abs(image - np.array(BACKGROUNDS[background], np.float32)).max(-1)
    for tolerance in _TOLERANCES:
        yield _parts(distance > tolerance, config)
    # Objects that touch, as only models write them, differ in color.
    paints = [BACKGROUNDS[background]] + [COLORS[name] for name in config.colors]
    nearest = _nearest(image, paints)
    yield [part for i in range(1, len(paints)) for part in _parts(nearest == i, config)]


def _parts(mask: np.ndarray, config: ScenesConfig) -> list[np.ndarray]:
    """The connected parts of a mask that are large enough for an object."""
    from scipy import ndimage  # takes half a second, which whoever never reads an image saves

    numbers, _ = ndimage.label(mask, np.ones((3, 3)))
    smallest = _SMALLEST_PART * config.sizes[0][1] ** 2
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1):
        if (rows.stop - rows.start) * (columns.stop - columns.start) >= smallest:
            found.append(numbers == number)
    return found


@dataclasses.dataclass(frozen=True)
class _Templates:
    """Every shape in every style, of one side.

    Attributes:
      names: (style, shape) of each.
      coverage: float32[n, side, side, 1].
      light: float32[n, side, side, 1], 1 in styles that are not lit.
    """

    names: tuple[tuple[str, str], ...]
    coverage: np.ndarray
    light: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=128)
    def of(cls, config: ScenesConfig, side: int) -> _Templates:
        names = tuple((s, h) for s in config.styles + config.unseen_styles for h in config.shapes)
        layers = [shape_layers(shape, side, style) for style, shape in names]
        return cls(names, *(np.stack(layer) for layer in zip(*layers)))


def _fit(
    image: np.ndarray, background: str, parts: list[np.ndarray], config: ScenesConfig
) -> Scene:
    """The scene whose objects resemble the parts most, all in one style."""
    fits = [_fit_part(image, background, part, parts, config) for part in parts]
    styles = config.styles + config.unseen_styles
    errors = [sum(fit[style][0] for fit in fits) for style in styles]
    style = styles[int(np.argmin(errors))]
    objects = sorted((fit[style][1] for fit in fits), key=lambda o: o.box)
    return Scene(config.pixels, background, style, tuple(objects))


def _fit_part(
    image: np.ndarray,
    background: str,
    part: np.ndarray,
    parts: list[np.ndarray],
    config: ScenesConfig,
) -> dict[str, tuple[float, SceneObject]]:
    """By style: the object that resembles a part most, and its sum of squared differences."""
    mine = part | ~np.any(parts, axis=0)
    away = np.square(image - np.array(BACKGROUNDS[background], np.float32)).sum(-1) * part
    best: dict[str, tuple[float, SceneObject]] = {}
    for box in _boxes(part, config):
        x0, y0, x1, y1 = box
        region, counted = image[y0:y1, x0:x1], mine[y0:y1, x0:x1, None]
        # What of the part lies outside the box would stay unpainted.
        outside = float(away.sum() - away[y0:y1, x0:x1].sum())
        size = next(name for name, low, high in config.sizes if low <= x1 - x0 <= high)
        templates = _Templates.of(config, x1 - x0)
        colors, brightness, errors = _paint(region, background, counted, templates, config)
        for i in np.argsort(errors):
            style, shape = templates.names[i]
            if style not in best or errors[i] + outside < best[style][0]:
                thing = SceneObject(config.colors[colors[i]], shape, size, box, brightness[i])
                best[style] = (errors[i] + outside, thing)
        if min(error for error, _ in best.values()) < _EXACT * counted.size:
            break
    return best


def _boxes(part: np.ndarray, config: ScenesConfig) -> Iterator[Box]:
    """Boxes that an object may have painted a part in, the likeliest first."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    grid = config.grid
    x0, y0 = columns[0] // grid * grid, rows[0] // grid * grid
    wide = max(-(-(columns[-1] + 1) // grid) * grid - x0, -(-(rows[-1] + 1) // grid) * grid - y0)
    sides = [side for _, low, high in config.sizes for side in range(low, high + 1, grid)]
    side = min(sides, key=lambda s: abs(s - wide))
    # A scrap at the far edges is smaller than any object, which lies inside of the image.
    x0, y0 = (min(start, config.pixels - side) for start in (x0, y0))
    moves = [(dx, dy, ds) for dx in _NEIGHBORS for dy in _NEIGHBORS for ds in _NEIGHBORS]
    for dx, dy, ds in sorted(moves, key=lambda move: sum(map(abs, move))):
        x, y, s = int(x0 + dx * grid), int(y0 + dy * grid), side + ds * grid
        if s in sides and min(x, y) >= 0 and max(x, y) + s <= config.pixels:
            yield x, y, x + s, y + s


def _paint(
    region: np.ndarray,
    background: str,
    counted: np.ndarray,
    templates: _Templates,
    config: ScenesConfig,
) -> tuple[list[int], list[int], list[float]]:
    """The best color and brightness of every template in a region.

    Args:
      region: float32[side, side, 3].
      background: its name.
      counted: bool[side, side, 1], pixels that are compared.

    Returns:
      n each: numbers of colors, brightness, sums of squared differences.
    """
    coverage, light = templates.coverage, templates.light
    ground = np.array(BACKGROUNDS[background], np.float32)
    table = np.array([COLORS[name] for name in config.colors], np.float32)
    jitter = config.brightness_jitter

    def errors(rows: slice, paint: np.ndarray) -> np.ndarray:
        lit = np.clip(paint[:, None, None] * light[rows], 0, 255)
        painted = np.floor(ground + (lit - ground) * coverage[rows] + 0.5)
        return (np.square(painted - region) * counted).sum((1, 2, 3))

    # Least squares where nothing is cut off at white; the share of paint in a pixel is a.
    a = coverage * light * (counted & (region < 255))
    weight = np.square(a).sum((1, 2))
    seen = (a * (region - ground * (1 - coverage))).sum((1, 2)) / np.maximum(weight, 1e-6)
    gap, weight = seen[:, None] - table, weight[:, None] + 1e-6
    offset = np.rint((gap * weight).sum(-1) / weight.sum(-1)).clip(-jitter, jitter)
    color = (np.square(gap - offset[..., None]) * weight).sum(-1).argmin(-1)
    brightness = offset[np.arange(len(color)), color]
    found = errors(slice(None), table[color] + brightness[:, None])
    if jitter:
        # Paint that is cut off at white looks darker than it is.
        best = int(found.argmin())
        tried = np.arange(-jitter, jitter + 1, dtype=np.float32)
        exact = errors(slice(best, best + 1), table[color[best]] + tried[:, None])
        brightness[best], found[best] = tried[exact.argmin()], exact.min()
    return color.tolist(), brightness.astype(int).tolist(), found.tolist()

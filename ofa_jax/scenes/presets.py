"""The presets of `scenes`: how big and how varied the world is.

`tiny` is learnt by a model of 0.7 M parameters on a two-core laptop in about ten minutes,
`small` takes an hour there or minutes on a GPU, `base` is meant for a GPU.
"""

from __future__ import annotations

import dataclasses
import functools

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 50, 47),
    "green": (56, 158, 72),
    "blue": (48, 98, 222),
    "yellow": (250, 206, 48),
    "purple": (142, 68, 178),
    "orange": (246, 132, 32),
    "pink": (246, 136, 186),
    "cyan": (52, 200, 214),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "star", "heart")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (244, 243, 238),
    "gray": (150, 152, 156),
    "black": (30, 30, 34),
    "beige": (224, 206, 170),
    "brown": (104, 76, 56),
}
SIZES: tuple[str, ...] = ("small", "large")
SPLITS: tuple[str, ...] = ("train", "validation", "test", "compositions", "unseen_style")
STYLES: tuple[str, ...] = ("solid", "shaded", "rimmed", "outlined", "hatched")
CAPTION_FORMS: tuple[str, ...] = (
    "list_background",
    "list",
    "single",
    "single_background",
    "relation",
    "relation_background",
    "there_is",
    "background_with",
)


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """One world and the amount of annotation.

    Attributes:
      name: name of the preset, part of every image id.
      pixels: side of the square image.
      object_counts: the number of objects is drawn uniformly from these; repeat one to weigh it.
      colors: names in `COLORS`.
      shapes: names in `SHAPES`.
      backgrounds: names in `BACKGROUNDS`.
      sizes: (name, smallest side, largest side) in pixels of each size class; the name is ""
        where sizes are not spoken of.
      styles: drawing styles of every split but `unseen_style`.
      unseen_styles: drawing styles of the split `unseen_style` only.
      held_out: (color, shape) pairs that only the split `compositions` draws and names.
      split_sizes: (split, number of examples) for each split.
      caption_forms: names in `CAPTION_FORMS`; the first is the form of `captions[0]`.
      num_captions: captions per scene at most (fewer where the scene allows fewer wordings).
      num_questions: questions per scene at most.
      num_negatives: false captions per scene.
      gap: free pixels between any two boxes.
      grid: boxes begin and end on multiples of this many pixels. The tasks' box bins are as wide,
        and the fewer phases an edge has against the patches of the image codes, the better a
        small codebook fits.
      brightness_jitter: largest change of an object's three channels (0..255 scale).
      patch: side in pixels of the patch of one image code.
      num_codes: entries of the patch codebook.
    """

    name: str
    pixels: int
    object_counts: tuple[int, ...]
    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    backgrounds: tuple[str, ...]
    sizes: tuple[tuple[str, int, int], ...]
    styles: tuple[str, ...]
    unseen_styles: tuple[str, ...]
    held_out: tuple[tuple[str, str], ...]
    split_sizes: tuple[tuple[str, int], ...]
    caption_forms: tuple[str, ...] = CAPTION_FORMS
    num_captions: int = 5
    num_questions: int = 3
    num_negatives: int = 2
    gap: int = 1
    grid: int = 2
    brightness_jitter: int = 0
    patch: int = 4
    num_codes: int = 128

    def __post_init__(self) -> None:
        known = {
            "colors": tuple(COLORS),
            "shapes": SHAPES,
            "backgrounds": tuple(BACKGROUNDS),
            "styles": STYLES,
            "unseen_styles": STYLES,
            "caption_forms": CAPTION_FORMS,
        }
        for field, names in known.items():
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(
                        f"ScenesConfig.{field}: unknown name {name!r}; known: {', '.join(names)}"
                    )
            if not getattr(self, field):
                raise ValueError(f"ScenesConfig.{field} must not be empty")
        if set(self.styles) & set(self.unseen_styles):
            raise ValueError("ScenesConfig.unseen_styles must not be among the training styles")
        if not set(self.held_out) < set(self.all_pairs) or not self.held_out:
            raise ValueError("ScenesConfig.held_out must be some of the colour-shape pairs")
        for color in self.colors:
            if not any(c == color for c, _ in self.seen_pairs):
                raise ValueError(f"ScenesConfig.held_out leaves no training pair for {color!r}")
        for shape in self.shapes:
            if not any(s == shape for _, s in self.seen_pairs):
                raise ValueError(f"ScenesConfig.held_out leaves no training pair for {shape!r}")
        if tuple(split for split, _ in self.split_sizes) != SPLITS:
            raise ValueError(f"ScenesConfig.split_sizes must give one number for {SPLITS}")
        largest = max(high for _, _, high in self.sizes)
        if 2 * largest + self.gap > self.pixels and max(self.object_counts) > 1:
            raise ValueError(
                f"ScenesConfig.sizes: two objects of side {largest} do not fit beside each other "
                f"in {self.pixels} pixels"
            )
        if any(low % self.grid or low > high for _, low, high in self.sizes):
            raise ValueError(
                f"ScenesConfig.sizes: sides must begin at a multiple of the grid, {self.grid} "
                "pixels, and the smallest must not exceed the largest"
            )
        if self.pixels % (4 * self.patch) or self.pixels % self.grid:
            raise ValueError(
                "ScenesConfig.pixels must be a multiple of four patches and of the grid"
            )

    @functools.cached_property
    def all_pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (color, shape) pair of this"""
        return tuple((color, shape) for color in self.colors for shape in self.shapes)

    @functools.cached_property
    def seen_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs that training draws and names."""
        return tuple(pair for pair in self.all_pairs if pair not in self.held_out)

    @property
    def size_names(self) -> tuple[str, ...]:
        """The size classes that are spoken of; empty where there is only one."""
        return tuple(name for name, _, _ in self.sizes if name)

    def split_size(self, split: str) -> int:
        """Number of examples of a split.

        Raises:
          ValueError: for an unknown split.
        """
        for name, size in self.split_sizes:
            if name == split:
                return size
        raise ValueError(f"unknown split {split!r} of scenes; known: {', '.join(SPLITS)}")

    def forbidden_pairs(self, split: str) -> frozenset[tuple[str, str]]:
        """The (color, shape) pairs that no text of a split may name, be it true or false."""
        return frozenset() if split == "compositions" else frozenset(self.held_out)


def _split_sizes(train: int, others: int) -> tuple[tuple[str, int], ...]:
    return tuple((split, train if split == "train" else others) for split in SPLITS)


_ALL_COLORS = tuple(COLORS)
_HELD_OUT_8X6 = (
    ("red", "cross"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "circle"),
    ("purple", "heart"),
    ("orange", "star"),
    ("pink", "square"),
    ("cyan", "circle"),
)

PRESETS: dict[str, ScenesConfig] = {
    "tiny": ScenesConfig(
        name="tiny",
        pixels=32,
        object_counts=(1, 1, 2, 2, 2),
        colors=_ALL_COLORS[:6],
        shapes=SHAPES[:4],
        backgrounds=("white", "gray", "black"),
        sizes=(("", 10, 14),),
        styles=("solid",),
        unseen_styles=("outlined", "hatched"),
        held_out=_HELD_OUT_8X6[:4],
        split_sizes=_split_sizes(24_000, 1_024),
        caption_forms=CAPTION_FORMS[:5],
    ),
    "small": ScenesConfig(
        name="small",
        pixels=64,
        object_counts=(1, 2, 2, 3, 3),
        colors=_ALL_COLORS,
        shapes=SHAPES,
        backgrounds=("white", "gray", "black", "beige"),
        sizes=(("small", 12, 16), ("large", 22, 28)),
        styles=("solid", "shaded"),
        unseen_styles=("outlined", "hatched"),
        held_out=_HELD_OUT_8X6,
        split_sizes=_split_sizes(100_000, 2_048),
        brightness_jitter=8,
        num_codes=256,
    ),
    "base": ScenesConfig(
        name="base",
        pixels=128,
        object_counts=(1, 2, 3, 4, 5),
        colors=_ALL_COLORS,
        shapes=SHAPES,
        backgrounds=tuple(BACKGROUNDS),
        sizes=(("small", 14, 22), ("large", 32, 48)),
        styles=("solid", "shaded", "rimmed"),
        unseen_styles=("outlined", "hatched"),
        held_out=_HELD_OUT_8X6,
        split_sizes=_split_sizes(500_000, 4_096),
        gap=2,
        brightness_jitter=12,
        patch=8,
        num_codes=256,
    ),
}


def preset(name: str | ScenesConfig) -> ScenesConfig:
    """Looks a preset up.

    Args:
      name: name in `PRESETS`, or a configuration, which is returned as it is.

    Returns:
      The configuration.

    Raises:
      ValueError: for an unknown name.
    """
    if isinstance(name, ScenesConfig):
        return name
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r} of scenes; known: {', '.join(PRESETS)}")
    return PRESETS[name]

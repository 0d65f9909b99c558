"""What a preparation is asked to do to every example: limits, filters, resizing, image codes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from PIL import Image

from ofa_jax import schema
from ofa_jax.data.ops.image_files import MAX_PIXELS
from ofa_jax.schema import Between

Side = Annotated[int, Between(1, 1 << 20)]
Words = Annotated[int, Between(1, 10**9)]


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """Settings that change what is stored; two directories with equal settings hold equal bytes.

    Attributes:
      resize_short_side: pixels of the short side of stored images; a smaller image keeps its
        bytes, it is never enlarged. None stores every image as it is.
      jpeg_quality: quality of images that are written anew, 1 to 95.
      upright: turn images as their EXIF orientation says, since their boxes are pixels of the
        upright image; otherwise the stored pixels stay, and boxes are taken for theirs.
      truncated_images: `drop` images whose file is cut off, or `decode` what there is of them, as
        the official code does; the rest is grey or black.
      cmyk: `drop` images in printing colours, or `convert` them to RGB without a colour profile.
      min_side: least pixels of an image's short side.
      max_side: most pixels of an image's long side.
      max_pixels: most pixels of an image in all; refused from the header.
      max_aspect: most that the long side may be of the short side; None: any.
      bad_boxes: where a box is bad, drop the box with its label and expressions (`drop_box`), and
        the example only where none is left; or drop the example (`drop_example`).
      min_box_side: least pixels of a box's shorter side, in the original image.
      box_tolerance: pixels by which a box may stick out of its image; what sticks out by more
        than training takes is cut.
      clip_boxes: cut boxes that stick out further to the image, instead of calling them bad.
      min_words: least words of a caption or text.
      max_words: most words of a caption, question, answer, label or expression.
      max_text_words: most words of a plain text (the field `text`); None: any.
      image_tokenizer: makes image codes: a codebook file (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function` that returns an `ImageTokenizer`. None makes none.
      code_size: pixels of the square that codes are made of; the stored image becomes it.
      code_part: codes of the `middle` half of each side (image infilling, SPEC 4.3.7) or of the
        `whole` square (image generation, SPEC 8.5).
    """

    resize_short_side: Side | None = None
    jpeg_quality: Annotated[int, Between(1, 95)] = 90
    upright: bool = False
    truncated_images: Literal["drop", "decode"] = "drop"
    cmyk: Literal["drop", "convert"] = "drop"
    min_side: Side = 2
    max_side: Side = 10_000
    max_pixels: Annotated[int, Between(1, 1 << 40)] = MAX_PIXELS
    max_aspect: Annotated[float, Between(1, 1e9)] | None = None
    bad_boxes: Literal["drop_example", "drop_box"] = "drop_box"
    min_box_side: Annotated[float, Between(0, 1e9)] = 0.0
    box_tolerance: Annotated[float, Between(0, 1e9)] = 1.0
    clip_boxes: bool = False
    min_words: Annotated[int, Between(0, 10**9)] = 1
    max_words: Words = 1000
    max_text_words: Words | None = None
    image_tokenizer: str | None = None
    code_size: Annotated[int, Between(4, 1 << 13)] = 256
    code_part: Literal["middle", "whole"] = "middle"

    def __post_init__(self) -> None:
        schema.check(self, "")
        for name, least in (("max_side", "min_side"), ("max_words", "min_words")):
            if getattr(self, name) < getattr(self, least):
                raise ValueError(
                    f"{name} must be at least {least}, {getattr(self, least)}, got "
                    f"{getattr(self, name)}"
                )
        if (self.max_text_words or self.min_words) < self.min_words:
            raise ValueError(f"max_text_words must be at least min_words, {self.min_words}")
        # Pillow refuses more as a bomb.
        if self.max_pixels > (most := 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)):
            raise ValueError(f"max_pixels must be from 1 to {most}, got {self.max_pixels}")
        if self.code_size % 4:
            raise ValueError(f"code_size must be a multiple of 4 pixels, got {self.code_size}")
        if self.image_tokenizer and self.resize_short_side:
            raise ValueError(
                "resize_short_side and image_tokenizer do not go together: with image codes the "
                "stored image is the square of code_size pixels that they are made of"
            )

    def as_dict(self) -> dict[str, object]:
        """The settings by name, for the manifest."""
        return dataclasses.asdict(self)

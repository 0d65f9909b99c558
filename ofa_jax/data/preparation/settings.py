"""What a preparation is asked to do to every example: limits, filters, resizing, image codes."""

from __future__ import annotations

import dataclasses
from typing import Any

from PIL import Image

from ofa_jax.data.ops.image import TRUNCATED_IMAGES
from ofa_jax.data.ops.image_files import MAX_PIXELS

CODE_PARTS = ("middle", "whole")
BAD_BOX_TREATMENTS = ("drop_example", "drop_box")
CMYK_TREATMENTS = ("drop", "convert")


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """Settings that change what is stored; two folders with equal settings hold equal bytes.

    Attributes:
      resize_short_side: pixels of the short side of stored pictures; a smaller picture keeps its
        bytes, it is never enlarged. None stores every picture as it is.
      jpeg_quality: quality of pictures that are written anew, 1 to 95.
      upright: turn pictures as their EXIF orientation says, since their boxes are pixels of the
        upright picture; otherwise the stored pixels stay, and boxes are taken for theirs.
      truncated_images: `drop` pictures whose file is cut off, or `decode` what there is of them, as
        the official code does; the rest is grey or black.
      cmyk: `drop` pictures in printing colours, or `convert` them to RGB without a colour profile.
      min_side: least pixels of a picture's short side.
      max_side: most pixels of a picture's long side.
      max_pixels: most pixels of a picture in all; refused from the header.
      max_aspect: most that the long side may be of the short side; None: any.
      bad_boxes: where a box is bad, drop the box with its label and expressions (`drop_box`), and
        the example only where none is left; or drop the example (`drop_example`).
      min_box_side: least pixels of a box's shorter side, in the original picture.
      box_tolerance: pixels by which a box may stick out of its picture; what sticks out by more
        than training takes is cut.
      clip_boxes: cut boxes that stick out further to the picture, instead of calling them bad.
      min_words: least words of a caption or text.
      max_words: most words of a caption, question, answer, label or expression.
      max_text_words: most words of a plain text (the field `text`); None: any.
      image_tokenizer: makes image codes: a codebook file (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function` that returns an `ImageTokenizer`. None makes none.
      code_size: pixels of the square that codes are made of; the stored picture becomes it.
      code_part: codes of the `middle` half of each side (image infilling, SPEC 4.3.7) or of the
        `whole` square (image generation, SPEC 8.5).
    """

    resize_short_side: int | None = None
    jpeg_quality: int = 90
    upright: bool = False
    truncated_images: str = "drop"
    cmyk: str = "drop"
    min_side: int = 2
    max_side: int = 10_000
    max_pixels: int = MAX_PIXELS
    max_aspect: float | None = None
    bad_boxes: str = "drop_box"
    min_box_side: float = 0.0
    box_tolerance: float = 1.0
    clip_boxes: bool = False
    min_words: int = 1
    max_words: int = 1000
    max_text_words: int | None = None
    image_tokenizer: str | None = None
    code_size: int = 256
    code_part: str = "middle"

    def __post_init__(self) -> None:
        for name, choices in (
            ("truncated_images", TRUNCATED_IMAGES),
            ("cmyk", CMYK_TREATMENTS),
            ("bad_boxes", BAD_BOX_TREATMENTS),
            ("code_part", CODE_PARTS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        most_pixels = 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
        for name, least, most in (
            ("resize_short_side", 1, None),
            ("jpeg_quality", 1, 95),
            ("min_side", 1, None),
            ("max_side", self.min_side, None),
            ("max_pixels", 1, most_pixels),
            ("max_aspect", 1, None),
            ("min_box_side", 0, None),
            ("box_tolerance", 0, None),
            ("min_words", 0, None),
            ("max_words", max(1, self.min_words), None),
            ("max_text_words", max(1, self.min_words), None),
            ("code_size", 4, None),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            if not value >= least or (most is not None and value > most):
                limits = f"at least {least}" if most is None else f"from {least} to {most}"
                raise ValueError(f"{name} must be {limits}, got {value}")
        if self.code_size % 4:
            raise ValueError(f"code_size must be a multiple of 4 pixels, got {self.code_size}")
        if self.image_tokenizer and self.resize_short_side:
            raise ValueError(
                "resize_short_side and image_tokenizer do not go together: with image codes the "
                "stored picture is the square of code_size pixels that they are made of"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for the manifest."""
        return dataclasses.asdict(self)

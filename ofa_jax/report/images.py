"""Images of held-out examples: upscaled, with boxes and labels, encoded for the page.

Small images are enlarged by a whole factor without interpolation, so that a pixel of the model
input stays a visible square. True boxes are solid and dark, predicted boxes dashed and magenta:
the two differ also without colour, and a white halo keeps both visible on any background.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageFont

TRUE_COLOUR = "#0b1f3a"
PREDICTED_COLOUR = "#d6006c"
_HALO = "#ffffff"
_SIDE = 384  # drawn side in pixels; shown at about half of it, sharp on dense screens
_LARGEST = 384  # longer sides are reduced
_PHOTOGRAPH_SIDE = 320  # to this, so that 24 photographs for each of ten tasks fit on a page


@dataclasses.dataclass(frozen=True)
class DrawnBox:
    """A box to draw.

    Attributes:
      box: (x0, y0, x1, y1) in pixels of the original image.
      predicted: predicted (dashed) or true (solid).
      label: text of a tag on the box, or "".
    """

    box: Sequence[float]
    predicted: bool
    label: str = ""


@functools.cache
def font(size: int, bold: bool = True) -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships, `size` pixels high; without matplotlib, that of Pillow."""
    try:
        import matplotlib
    except ModuleNotFoundError:  # the core has none: `infer` draws boxes with this
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size)


def load_image(path: pathlib.Path) -> Image.Image | None:
    """Reads an image as RGB; None where it is missing or cannot be decoded."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:
        return None


def enlarge(image: Image.Image, side: int = _SIDE, *, reduce: bool = True) -> Image.Image:
    """Brings an image to about `side` pixels: whole factors without interpolation, or reduced.

    Args:
      image: any mode, [y, x].
      side: wanted length of the longer side, in pixels.
      reduce: whether larger images are made smaller.

    Returns:
      The image itself where it has a fitting size already.
    """
    longer = max(image.size)
    factor = round(side / longer)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if reduce and longer > _LARGEST:
        shape = [max(1, round(length * _PHOTOGRAPH_SIDE / longer)) for length in image.size]
        return image.resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
    return image


def _extent(size: tuple[int, int]) -> float:
    """What lines and tags are sized by: the longer side, of large images only in part."""
    longer = max(size)
    return min(longer, _SIDE) + max(0, longer - _SIDE) / 3


def _dashes(start: float, end: float, dash: int) -> list[tuple[float, float]]:
    """Dashes from start to end with gaps of about the same length, one at each end."""
    count = max(1, round((end - start) / (2 * dash)))
    step = (end - start) / (2 * count + 1)
    return [(start + 2 * i * step, start + (2 * i + 1) * step) for i in range(count + 1)]


def _draw_frame(draw: ImageDraw.ImageDraw, box: Sequence[float], drawn: DrawnBox, w: int) -> None:
    x0, y0, x1, y1 = box
    outer = (x0 - w, y0 - w, x1 + w, y1 + w)
    if not drawn.predicted:
        draw.rectangle(outer, outline=_HALO, width=3 * w)
        draw.rectangle((x0, y0, x1, y1), outline=TRUE_COLOUR, width=w + 1)
        return
    dash = 4 * w
    for a, b in _dashes(x0, x1, dash):
        for y in (y0, y1):
            draw.line((a, y, b, y), fill=_HALO, width=3 * w)
            draw.line((a, y, b, y), fill=PREDICTED_COLOUR, width=w + 1)
    for a, b in _dashes(y0, y1, dash):
        for x in (x0, x1):
            draw.line((x, a, x, b), fill=_HALO, width=3 * w)
            draw.line((x, a, x, b), fill=PREDICTED_COLOUR, width=w + 1)


def _draw_tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    drawn: DrawnBox,
    placed: list[tuple[float, float, float, float]],
) -> None:
    """Draws the label of a box beside it, clear of the labels in `placed`; adds itself there."""
    face = font(max(11, round(_extent(size) / 22)))
    width, height = round(face.getlength(drawn.label)) + 10, round(1.35 * face.size)
    x = min(max(box[0], 0), max(size[0] - width, 0))
    above, below = box[1] - height - 5, box[3] + 6
    fits_above, fits_below = above >= 0, below + height < size[1]
    # Predicted tags stand above their box and true ones below, so that a wrong label and the
    # label that it missed do not cover each other.
    if drawn.predicted:
        y = above if fits_above or not fits_below else below
    else:
        y = below if fits_below or not fits_above else above
    y = min(max(y, 0), size[1] - height - 1)
    step = -height - 3 if y > size[1] / 2 else height + 3
    for _ in placed:
        if any(x < r and x + width > q and y < b and y + height > t for q, t, r, b in placed):
            y = min(max(y + step, 0), size[1] - height - 1)
    placed.append((x, y, x + width, y + height))
    colour = PREDICTED_COLOUR if drawn.predicted else TRUE_COLOUR
    draw.rectangle((x - 1, y - 1, x + width + 1, y + height + 1), fill=_HALO)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    middle = (x + 5, y + height / 2 + 1)
    draw.text(middle, drawn.label, fill=_HALO, font=face, anchor="lm")


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[DrawnBox],
    image_size: Sequence[float] | None = None,
    *,
    reduce: bool = True,
) -> Image.Image:
    """Enlarges an image and draws boxes on it, true ones below predicted ones, tags on top.

    Args:
      image: the image as stored.
      boxes: boxes in pixels of an image of `image_size`.
      image_size: (width, height) that the boxes refer to; None means the stored image's.
      reduce: bring photographs to the size of a page; otherwise they keep theirs.

    Returns:
      A new RGB image.
    """
    width, height = image_size or image.size
    canvas = enlarge(image, reduce=reduce).copy()
    x_scale, y_scale = canvas.width / width, canvas.height / height
    draw = ImageDraw.Draw(canvas)
    line = max(2, round(_extent(canvas.size) / 110))
    scaled = []
    for drawn in sorted(boxes, key=lambda item: item.predicted):
        x0, y0, x1, y1 = drawn.box
        x0, x1 = sorted((x0 * x_scale, x1 * x_scale))
        y0, y1 = sorted((y0 * y_scale, y1 * y_scale))
        # Boxes at the border stay visible.
        box = (
            min(max(x0, line), canvas.width - 2 * line),
            min(max(y0, line), canvas.height - 2 * line),
            min(max(x1, 2 * line), canvas.width - line - 1),
            min(max(y1, 2 * line), canvas.height - line - 1),
        )
        _draw_frame(draw, box, drawn, line)
        scaled.append((box, drawn))
    placed: list[tuple[float, float, float, float]] = []
    for box, drawn in scaled:
        if drawn.label:
            _draw_tag(draw, canvas.size, box, drawn, placed)
    return canvas


def data_uri(image: Image.Image) -> str:
    """Encodes an image for an HTML page: a palette PNG where it has few colours, else JPEG.

    Args:
      image: RGB.

    Returns:
      "data:image/...;base64,...".
    """
    buffer = io.BytesIO()
    if image.getcolors(maxcolors=256) is not None:
        palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
        palette.save(buffer, "PNG", compress_level=9)
        encoding = "png"
    else:
        image.save(buffer, "JPEG", quality=80)
        encoding = "jpeg"
    return f"data:image/{encoding};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

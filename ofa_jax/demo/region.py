"""The part of the page on which a region is drawn: the image, and a rectangle over it.

It shows the uploaded image as the browser has it. Drawing gives x0, y0, x1, y1 in pixels of the
image as text; the text may be written as well, and the rectangle follows.
"""

from __future__ import annotations

import pathlib

import gradio as gr

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_HTML = """
<p class="region-hint">${value && value.url ? "Drag over the image to draw the region."
  : "Choose an image first; then draw the region here."}</p>
<div class="region-frame">${value && value.url
  ? `<img src="${value.url}" alt="The image, to draw a region on" draggable="false">
     <div class="region-box"></div>` : ""}</div>
"""
_FOLLOW = "(image, region) => ({ url: image ? image.url : null, region })"


def region_input(image: gr.Image) -> gr.Textbox:
    """Adds the drawing place and its text to the page that is being built.

    Args:
      image: where the image is uploaded.

    Returns:
      The text "x0,y0,x1,y1".
    """
    board = gr.HTML(
        {"url": None, "region": ""},
        html_template=_HTML,
        css_template=(_TEMPLATES / "region.css").read_text("utf-8"),
        js_on_load=(_TEMPLATES / "region.js").read_text("utf-8"),
        elem_classes="region",
    )
    text = gr.Textbox(
        label="Region: left,top,right,bottom in pixels of the image",
        placeholder="drawn above, or written here",
        max_lines=1,
    )
    for changed in (image, text):
        changed.change(
            None, [image, text], board, js=_FOLLOW, queue=False, api_visibility="private"
        )
    board.select(_drawn, None, text, queue=False, api_visibility="private")
    return text


def _drawn(event: gr.EventData) -> str:
    return str(event.region)

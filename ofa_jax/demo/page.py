"""The page: one image, a tab for each task, one answer below; each tab is also an API endpoint."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from ofa_jax.atomic import JsonObject
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.demo.api import message_of, read_asked
from ofa_jax.demo.asking import AnswerSettings, DemoModel
from ofa_jax.demo.region import region_input
from ofa_jax.inference.predictor import REGION, OFAPredictor
from ofa_jax.scenes.presets import PRESETS, ScenesConfig
from ofa_jax.scenes.source import ScenesSource

# Families in the order of their tabs; others come behind them.
TITLES = {
    "captioning": "Caption",
    "vqa": "Question",
    "visual_grounding": "Find a phrase",
    "grounded_captioning": "Region",
    "grounded_vqa": "Region question",
    "detection": "Objects",
    "image_text_matching": "Match",
    "text_infilling": "Fill a text",
    "image_infilling": "Fill an image",
    "text_to_image": "Make an image",
}
_EXAMPLES = {
    "question": "what color is the car",
    "caption": "a man with a red hat",
    "text": "a dog <mask> on the sofa",
}
_METHODS = {"task": "as the task does", "beam": "beam search", "sampling": "sampling"}
CSS = """
.pixels img { image-rendering: pixelated; object-fit: contain; }
.answer textarea { font-size: 1.25em; }
"""
# Every so many seconds, uploads and drawn images that are older are deleted.
_KEPT_SECONDS = 3600


def uploaded_image(**options: Any) -> gr.Image:
    """An image that was uploaded: unlike gradio's own it fetches no address and decodes nothing.

    Its value is the path of the upload.
    """
    image = gr.Image(**options)
    to_cache = image.async_move_resource_to_block_cache

    async def uploads_only(path: Any) -> str | None:
        if "://" in str(path):
            raise gr.Error("upload the image; addresses are not fetched", print_exception=False)
        return await to_cache(path)

    def path_of(payload: ImageData | None) -> str | None:
        if payload is not None and payload.path is None:
            raise gr.Error("upload the image as a file", print_exception=False)
        return None if payload is None else payload.path

    # Not as a subclass: gradio writes a file beside the module of each.
    vars(image).update(async_move_resource_to_block_cache=uploads_only, preprocess=path_of)
    return image


def build_page(model: DemoModel, name: str) -> gr.Blocks:
    """The page of a model.

    Args:
      model: the model.
      name: of the checkpoint, for the heading.

    Returns:
      The page, to be mounted.
    """
    world = scenes_world(model.predictor)
    with gr.Blocks(
        title="OFA", analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# OFA\n`{name}` answers. [The same over HTTP](/api/tasks).")
        texts: dict[str, list[gr.Textbox]] = {}
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = uploaded_image(
                    label="Image",
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    image_mode=None,
                    format="png",
                    height=360,
                    buttons=["fullscreen"],
                    elem_classes="pixels",
                    alt_text="The image that the model is asked about",
                )
                fresh: tuple[gr.Button, gr.Markdown] | None = None
                if world is not None:
                    fresh = gr.Button("New scene"), gr.Markdown()
            with gr.Column(scale=3, min_width=320):
                order = [*TITLES, *model.cards]
                tabs = sorted(model.cards.items(), key=lambda item: order.index(item[0]))
                buttons = []
                with gr.Tabs() as chosen:
                    for task, card in [*tabs, ("instruction", None)]:
                        title = TITLES.get(task, task.replace("_", " "))
                        with gr.Tab("Any instruction" if card is None else title):
                            inputs = _tab_inputs(task, card, image)
                            for field, box in inputs.items():
                                texts.setdefault(field, []).append(box)
                            buttons.append(
                                (task, card, inputs, gr.Button("Ask", variant="primary"))
                            )
                answer = gr.Textbox(
                    label="Answer", elem_classes="answer", interactive=False, lines=1
                )
                shown = gr.Image(
                    label="In the image",
                    format="png",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    elem_classes="pixels",
                    alt_text="The image with the boxes of the answer",
                )
                ranked = gr.Label(
                    label="Probabilities of the answers", visible=False, show_heading=False
                )
                with gr.Accordion("As JSON", open=False):
                    data = gr.JSON(show_label=False)
                settings, below = _settings_inputs(model)
        outputs = [answer, shown, ranked, data]
        chosen.select(_nothing, None, outputs, queue=False, api_visibility="private")
        names = [*settings, "uncertain_below"]
        for task, card, inputs, button in buttons:
            has_image = card is None or card.instruction.image_slot is not None
            components = [*([image] if has_image else []), *inputs.values()]
            asks = functools.partial(
                _asks, model, "" if card is None else task, has_image, [*inputs, *names]
            )
            pressed = [button.click, *(box.submit for box in inputs.values())]
            gr.on(
                pressed,
                _named(asks, task),
                [*components, *settings.values(), below],
                outputs,
                api_name=task,
                concurrency_id="model",
                concurrency_limit=model.settings.max_waiting,
            )
        if world is not None and fresh is not None:
            fields = [name for name in texts if name != "answers"]
            targets = [box for name in fields for box in texts[name]]

            def scene() -> list[object]:
                made, said, values = new_scene(world)
                filled = [values.get(name, "") for name in fields for _ in texts[name]]
                return [made, said, *filled]

            again, truth = fresh
            for event in (again.click, page.load):
                event(scene, None, [image, truth, *targets], api_visibility="private")
    page.queue(max_size=2 * model.settings.max_waiting)
    return page


def scenes_world(predictor: OFAPredictor) -> ScenesConfig | None:
    """The world that a model of the quickstart was trained on; None for other models."""
    if not any(card.name.startswith("scenes_") for card in predictor.cards):
        return None
    side = predictor.image_size
    return next((world for world in PRESETS.values() if world.pixels == side), None)


def new_scene(world: ScenesConfig) -> tuple[Image.Image, str, dict[str, str]]:
    """A scene that the model has not seen, with something to ask about it.

    Args:
      world: of the model.

    Returns:
      (RGB image, what is in it, text of each input).
    """
    source = ScenesSource(world, "test")
    example = source[random.randrange(len(source))]
    index = random.randrange(len(example["boxes"]))
    number = random.randrange(len(example["refexps"])) if example["refexps"] else 0
    region = random.choice(example["region_qa"])
    box = example["boxes"][region["box_index"] if region else index]
    words = str(example["captions"][0]).split()
    words[random.randrange(len(words))] = "<mask>"
    values = {
        "caption": example["refexps"][number] if example["refexps"] else example["labels"][index],
        "question": example["question"],
        "region": ",".join(f"{side:g}" for side in box),
        "text": " ".join(words),
        "instruction": "what does the image describe?",
    }
    said = f"In this scene: {', '.join(example['region_captions'])}."
    return Image.fromarray(example["image"]), said, values


def _settings_inputs(model: DemoModel) -> tuple[dict[str, Any], gr.Slider]:
    """Inputs of `AnswerSettings` by name, and the one for uncertain boxes."""
    default = AnswerSettings()
    below = gr.Slider(
        *(0, 1, model.settings.uncertain_below),
        step=0.01,
        label="Boxes less probable than this are uncertain",
        info="Drawn dashed, with a question mark. Good boxes may have a few percent.",
    )
    with gr.Accordion("How it answers", open=False):
        inputs = {
            "method": gr.Radio(
                [(text, name) for name, text in _METHODS.items()], value="task", label="Method"
            ),
            "best": gr.Slider(1, 10, 3, step=1, label="Answers with their probabilities"),
            "beams": gr.Slider(1, 10, default.beams, step=1, label="Beams"),
            "temperature": gr.Slider(0.05, 5, 1, step=0.05, label="Temperature of sampling"),
            "top_k": gr.Number(0, precision=0, label="Among so many tokens; 0 = all"),
            "top_p": gr.Slider(0, 1, 0, step=0.05, label="Up to this probability; 0 = off"),
            "seed": gr.Number(0, precision=0, label="Seed of sampling"),
        }
    assert list(inputs) == [field.name for field in dataclasses.fields(AnswerSettings)]
    return inputs, below


def _tab_inputs(task: str, card: TaskCard | None, image: gr.Image) -> dict[str, gr.Textbox]:
    """Inputs of one task by the names that `read_asked` knows."""
    if card is None:
        instruction = gr.Textbox(
            "what does the image describe?",
            label="Instruction",
            info=f"Spaces count. {REGION} stands for a region, drawn below.",
        )
        with gr.Accordion("Region", open=False):
            region = region_input(image)
        return {"instruction": instruction, "region": region, "answers": _answers_input()}
    inputs = {}
    for field in card.fields:
        if field == "region":
            continue
        example = f"such as: {_EXAMPLES[field]}" if field in _EXAMPLES else None
        label = "Phrase" if task == "visual_grounding" else field.capitalize()
        inputs[field] = gr.Textbox(label=label, placeholder=example, max_lines=4)
    if "region" in card.fields:
        inputs["region"] = region_input(image)
    if {"question", "hypothesis"} & set(inputs) or task == "image_text_matching":
        inputs["answers"] = _answers_input(card)
    return inputs


def _answers_input(card: TaskCard | None = None) -> gr.Textbox:
    closed = card is not None and card.answering.answers is not None
    free = "those of the task" if closed else "any answer"
    return gr.Textbox(
        label="Allowed answers",
        placeholder=f"empty: {free}; else such as: yes, no",
        info="Separated by commas; each gets its probability.",
        max_lines=3,
    )


async def _asks(
    model: DemoModel, task: str, has_image: bool, names: Sequence[str], *values: Any
) -> list[object]:
    """What a button does: values are the image, if there is one, and one for each name."""
    path, *texts = values if has_image else (None, *values)
    file = None if path is None else pathlib.Path(path).read_bytes()
    form = {name: "" if value is None else str(value) for name, value in zip(names, texts)}
    try:
        asked, below = read_asked({**form, "task": task}, model)
        answered = await model.ask(asked, file, below)
    except Exception as error:
        raise gr.Error(message_of(error)[1], print_exception=False) from error
    shares: dict[str, float] = {}
    for one in answered.data["answers"]:
        text = one["text"] or "(nothing)"
        shares[text] = shares.get(text, 0.0) + one["probability"]
    text, boxes = answered.data["text"], answered.data["boxes"]
    if model.makes_images(task):
        text = ""
    elif boxes:
        text = "\n".join(_line(one) for one in boxes)
    return [
        text,
        gr.update(value=answered.image, visible=answered.image is not None),
        # Of bins the probabilities stand at the boxes, and those of codes are all tiny.
        gr.update(value=shares, visible=not boxes and answered.image is None),
        answered.data,
    ]


def _line(box: JsonObject) -> str:
    share = "" if box["probability"] is None else f", {box['probability']:.0%}"
    doubt = ", uncertain" if box["uncertain"] else ""
    sides = ", ".join(f"{side:g}" for side in box["box"])
    return f"{box['label'] or 'box'}: {sides}{share}{doubt}"


def _nothing() -> list[object]:
    """No answer: another task was chosen."""
    return ["", gr.update(visible=False), gr.update(visible=False), None]


def _named(function: Callable[..., Awaitable], name: str) -> Callable[..., Awaitable]:
    """gradio takes a function with a name, and looks at what it is given."""

    async def asks(*values: Any) -> list[object]:
        return await function(*values)

    asks.__name__ = name
    return asks

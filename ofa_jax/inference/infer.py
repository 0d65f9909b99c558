"""Questions about images: `infer`, behind `python -m ofa_jax.infer`.

One image: the answer is printed, boxes are drawn into a PNG. Many images, from files, directories
or a prepared data set: a line per image in `predictions/answers.jsonl`, written batch by batch, and
a report page; the same command goes on where a stopped one was. Bad images are counted.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from ofa_jax import digest, schema
from ofa_jax.checkpoint.bucket import is_remote, local_directory
from ofa_jax.data.ops.image import read_image
from ofa_jax.data.ops.image_tokenizer import load_image_tokenizer
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.tasks.answering import allowed_answers
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.generated_images import image_settings, write_images
from ofa_jax.inference.image_stream import answer_images
from ofa_jax.inference.images import find_images, image_files, prepared_images
from ofa_jax.inference.loading import load
from ofa_jax.inference.predictor import FREE_DECODING, REGION, TEXT_TO_IMAGE, OFAPredictor
from ofa_jax.inference.questions import Prediction, Question
from ofa_jax.inference.weights import checkpoint_identity, find_checkpoint, trained_cards
from ofa_jax.metrics.generation import Extractors
from ofa_jax.report.images import DrawnBox, draw_boxes
from ofa_jax.schema import Between

logger = logging.getLogger("ofa_jax")

DEFAULT_INSTRUCTION = "what does the image describe?"
# What fairseq and HuggingFace call settings of decoding -> what they are called here.
_ELSEWHERE = {
    **dict.fromkeys(("num_beams", "beam_size", "beams"), "beam"),
    **dict.fromkeys(("lenpen", "length_penalty", "len_penalty"), "length_penalty"),
    **dict.fromkeys(("max_length", "max_new_tokens", "max_len"), "max_len_b"),
    **dict.fromkeys(("min_length", "min_new_tokens"), "min_len"),
    **dict.fromkeys(("num_return_sequences", "num_samples", "nbest"), "samples"),
}
_BINS = re.compile(r"\s*".join(4 * [r"<bin_([0-9]{1,9})>"]))


def infer(
    *,
    instruction: str | None = None,
    task: str = "",
    fields: Mapping[str, Any] | None = None,
    checkpoint: str = "",
    images: str | Sequence[str] = (),
    prepared_data: str = "",
    split: str = "validation",
    region: Sequence[Annotated[float, Between(0, 1e9)]] | None = None,
    without_image: bool = False,
    answers: str | Sequence[str] = (),
    method: Literal["", "search", "candidates"] = "",
    best: Annotated[int, Between(1, 1024)] = 1,
    min_box_probability: Annotated[float, Between(0, 1)] = 0.0,
    output_dir: str = "",
    overwrite: bool = False,
    batch_size: Annotated[int, Between(1, 1 << 16)] = 8,
    image_side: Annotated[int, Between(0, 1 << 16)] = 0,
    vocabulary: str = "",
    ema: bool | None = None,
    dtype: str = "",
    decoding: Mapping[str, Any] | None = None,
    sampling: bool = False,
    decoder_prompt: str = "",
    image_tokenizer: str = "",
    picture_side: Annotated[int, Between(0, 1 << 16)] = 0,
    extractors: str = "",
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0,
    module: str | Sequence[str] = (),
    cards: Sequence[TaskCard] = (),
) -> list[Prediction]:
    """Answers one question about each image.

    Args:
      instruction: what to do, such as "what does the image describe?", the default; its spaces
        reach the tokenizer as they are. Regions are four bins `<bin_12> ...`, or `{region}` with
        `region`.
      task: a task that the model was trained on, in the place of an instruction: its name or
        family, such as "grounded_captioning".
      fields: what the task reads besides image and region, such as {"question": "what is it?"}.
      checkpoint: directory of a run, orbax or HuggingFace directory, `.pt`, or hub repository; ""
        is the quickstart's run.
      images: files, directories, or patterns such as "photos/*.jpg".
      prepared_data: directory of prepared shards whose images are used.
      split: of that directory.
      region: x0, y0, x1, y1 in pixels of the image; takes the place of `{region}`, or is the box
        that the task reads.
      without_image: the instruction is about text alone.
      answers: the only allowed answers: a list, or a file of them (`.txt`, `.json`, `.pkl`); ()
        allows all.
      method: of a closed set: "search" or "candidates" (every answer is scored); "" = as the task
        does.
      best: answers per image, with their probabilities.
      min_box_probability: a box that is less probable counts as not found.
      output_dir: directory of the results; "" prints one image's answer and writes a drawn box
        into the working directory, and takes "runs/infer" for several.
      overwrite: throw away the answers of other inputs that `output_dir` holds.
      batch_size: images per step, over all devices of this process.
      image_side: side in pixels of the model's input; 0 = as the run was trained, else 480.
      vocabulary: directory of the vocabulary; "" = the one beside the weights.
      ema: take the moving average of the weights; None = where a run of ours keeps one, as its
        own scores did.
      dtype: type of the computation; "" = as the checkpoint says.
      decoding: settings of `BeamConfig` (or `SamplingConfig`) that differ from those of the task,
        or of free instructions: 5 beams, at most 64 tokens, no repeated 3-grams.
      sampling: draw the answer instead of searching the likeliest.
      decoder_prompt: "none", "source" or "source_and_eos", see `Answering`; "" = as the task of
        the run wants it.
      image_tokenizer: makes pixels of image codes: a codebook (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function`; "" takes the one that a run of ours keeps. With it the
        answer is an image, written as PNG: without an image the one that the instruction describes
        ("what is the complete image? caption: a bus"), else the image with its middle made anew.
      picture_side: side in pixels of the images that the model makes; 0 = as it was trained.
      extractors: `module:function` with CLIP's embeddings, see `ofa_jax.metrics.generation`: of
        several samples the one that fits the caption best is the first.
      seed: of sampling.
      module: modules to import that register `task`, where the run does not know it.
      cards: tasks that can be asked besides those of the run.

    Returns:
      The prediction of a single image or text; [] for many, and for images as answers, which are
      in files.

    Raises:
      ValueError: a setting that cannot work, or a bad single image.
    """
    schema.check_arguments(infer, locals(), "infer")
    if task and instruction is not None:
        raise ValueError("--task and --instruction exclude each other: a task has its instruction")
    instruction = "" if task else DEFAULT_INSTRUCTION if instruction is None else instruction
    if not task and not instruction.strip():
        raise ValueError("--instruction is empty; say what the model should do")
    local_directory(output_dir, "output_dir")
    paths = find_images(images)
    has_image = bool(paths or prepared_data)
    if task and not has_image and (asked_for := _image_instruction(checkpoint, task, fields or {})):
        # As by the instruction: the task says how, the run keeps its image tokenizer.
        task, instruction, without_image = "", asked_for, False
    asks_for_image = not has_image and instruction.strip().startswith(TEXT_TO_IMAGE)
    writes_images = bool(image_tokenizer) or asks_for_image
    without_image = without_image or (writes_images and not has_image)
    _check_inputs(instruction, task, paths, prepared_data, region, without_image)
    if image_tokenizer and (prepared_data or len(paths) > 1):
        raise ValueError("--image_tokenizer: an image as answer is made of one instruction only")
    pixels = load_image_tokenizer(image_tokenizer) if image_tokenizer else None
    source = find_checkpoint(checkpoint)
    many = bool(prepared_data or len(paths) > 1)
    if module:
        modules = (module,) if isinstance(module, str) else tuple(module)
        cards = (*cards, *_cards_of_modules(modules, task, trained_cards(source)))
    predictor = load(
        source,
        vocabulary=vocabulary or None,
        image_size=image_side or None,
        dtype=dtype or None,
        ema=ema,
        code_image_size=picture_side or None,
        image_tokenizer=pixels,
        cards=cards,
        devices=None if many else 1,
    )
    if writes_images:
        name = f"{pathlib.Path(paths[0]).stem}_infilled.png" if paths else "generated.png"
        files = write_images(
            predictor,
            instruction,
            read_image(paths[0]) if paths else None,
            pathlib.Path(output_dir) / name,
            decoding=image_settings(predictor, decoding, sampling or not paths, whole=not paths),
            extractors=Extractors.load(extractors) if extractors else None,
            seed=seed,
        )
        print("\n".join(map(str, files)))
        return []
    options: dict[str, Any] = {
        "decoding": _settings(decoding, sampling, free=not task),
        "answers": _words(answers),
        "method": method,
        "best": best,
        "min_box_probability": min_box_probability,
        "decoder_prompt": decoder_prompt,
        "seed": seed,
    }
    check_regions(instruction, predictor)
    asked = Question(None, instruction, region, fields or {})
    if many:
        listed = prepared_images(prepared_data, split) if prepared_data else image_files(paths)
        shown = checkpoint if is_remote(checkpoint) else source
        inputs = {
            "instruction": instruction,
            "task": task,
            "fields": dict(asked.fields),
            "region": None if region is None else list(region),
            "checkpoint": checkpoint_identity(source),
            "ema": ema,
            "dtype": dtype,
            "image_side": predictor.image_size,
            "options": {
                name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
                for name, value in options.items()
            },
        }
        if prepared_data:
            files = PreparedSource(prepared_data).data_files(split)
            inputs["data"] = digest.identities(files)
        predictor.check_batch(batch_size, "--batch_size")
        answer_images(
            predictor,
            listed,
            asked,
            task,
            options,
            output_dir,
            batch_size,
            inputs=inputs,
            facts={"model": shown, "input_pixels": predictor.image_size},
            overwrite=overwrite,
        )
        return []
    image = read_image(paths[0]) if paths else None
    [prediction] = predictor.answer([dataclasses.replace(asked, image=image)], task, **options)
    _print(prediction, image, paths[0] if paths else "", output_dir, best)
    return [prediction]


def _image_instruction(checkpoint: str, task: str, fields: Mapping[str, str]) -> str:
    """What asks for the whole image of a task that makes one of text; "" for any other task."""
    for card in trained_cards(find_checkpoint(checkpoint)):
        if task in (card.name, card.family) and card.makes_whole_images:
            [name] = card.fields
            if not fields.get(name, "").strip():
                raise ValueError(f"task {task!r} needs --field={name}=TEXT: what the image shows")
            return f"{TEXT_TO_IMAGE} {fields[name].strip()}"
    return ""


def _cards_of_modules(
    modules: Sequence[str], task: str, known: Sequence[TaskCard]
) -> tuple[TaskCard, ...]:
    """The card of a task that the run does not know, with lengths as the run has them."""
    # seqio's registry, which nothing else here needs.
    from ofa_jax.data.tasks.registered_cards import registered_cards

    if not task:
        raise ValueError("--module registers tasks; name one by --task")
    lengths = {"inputs": 256, "targets": 256, "image": 0}
    if known:
        lengths = {name: max(card.lengths[name] for card in known) for name in lengths}
    found = registered_cards(task, lengths, modules)
    names = {card.name for card in known}
    return tuple(card for card in found if card.name not in names)


def _print(
    prediction: Prediction, image: np.ndarray | None, path: str, output_dir: str, best: int
) -> None:
    """Prints an answer; draws every box of it into a PNG beside the results."""
    if best > 1:
        for one in (prediction, *prediction.alternatives):
            print(f"{one.text}\t{one.probability:.3g}")
    else:
        print(prediction.text)
    found = prediction.objects or (((prediction.box, ""),) if prediction.box is not None else ())
    if image is None or not found:
        return
    target = _unused(pathlib.Path(output_dir) / f"{pathlib.Path(path).stem}_box.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = [DrawnBox(box, True, label) for box, label in found]
    draw_boxes(Image.fromarray(np.ascontiguousarray(image)), drawn, reduce=False).save(target)
    for box, label in found:
        x0, y0, x1, y1 = (round(value, 1) for value in box)
        print(f"box: {x0} {y0} {x1} {y1} {label}".rstrip() + " (left, top, right, bottom, pixels)")
    print(f"drawn in {target}")


def _unused(path: pathlib.Path) -> pathlib.Path:
    """The path, or one with a number: a file of the user is never replaced."""
    number, free = 1, path
    while free.exists():
        free = path.with_stem(f"{path.stem}_{number}")
        number += 1
    return free


def check_regions(instruction: str, predictor: OFAPredictor) -> None:
    """Fails where a region of an instruction lies outside the model's input.

    Args:
      instruction: may hold runs of four bins.
      predictor: its input size and bins decide.

    Raises:
      ValueError: names the region and what would be right.
    """
    layout, side = predictor.tokenizer.layout, predictor.image_size
    last = int(layout.coordinates_to_bins(np.array([side]))[0])
    for match in _BINS.finditer(instruction):
        x0, y0, x1, y1 = (int(number) for number in match.groups())
        if not (x0 < x1 <= last and y0 < y1 <= last):
            raise ValueError(
                f"region {match.group()} is no box of the image: left < right and top < bottom, "
                f"and at most <bin_{last}>, the edge of the model's input of {side} pixels "
                "(--region takes pixels of the image instead)"
            )


def _check_inputs(
    instruction: str,
    task: str,
    paths: Sequence[str],
    prepared_data: str,
    region: Sequence[float] | None,
    without_image: bool,
) -> None:
    has_image = bool(paths or prepared_data)
    if not has_image and not without_image:
        raise ValueError(
            "no image: give --image FILE or DIRECTORY, or --without_image if the instruction is "
            "about text alone"
        )
    if has_image and without_image:
        raise ValueError("--image and --without_image exclude each other")
    if not task and (region is not None) != (REGION in instruction):
        raise ValueError(
            f"--region x0,y0,x1,y1 and {REGION} in the instruction belong together, as in "
            f"--instruction 'what color is the car in the region? region: {REGION}'"
        )
    if region is not None and len(region) != 4:
        raise ValueError(f"--region is x0,y0,x1,y1 in pixels, got {len(region)} numbers")


def _settings(
    decoding: Mapping[str, Any] | None, sampling: bool, *, free: bool
) -> BeamConfig | SamplingConfig | None:
    """Settings of free instructions with changes; None where a task keeps its own."""
    if not (free or decoding or sampling):
        return None
    defaults: dict[str, Any] = {"max_len_b": FREE_DECODING["max_len_b"]}
    config_class = SamplingConfig if sampling else BeamConfig
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in decoding or {}:
        if name not in known:
            own = _ELSEWHERE.get(name)
            hint = f"; here it is {own}" if own in known else schema.nearest(name, known)
            raise ValueError(f"decoding has no setting {name!r}{hint}")
    if free and not sampling:
        defaults = dict(FREE_DECODING)
    return config_class(**(defaults | dict(decoding or {})))


def _words(answers: str | Sequence[str]) -> tuple[str, ...]:
    if answers == ():
        return ()
    try:
        return allowed_answers(answers)
    except ValueError as error:
        raise ValueError(f"--answers: {error}") from error

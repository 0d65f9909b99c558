"""Free instructions to pictures: `infer_script.infer`, behind `python -m ofa_jax.infer`.

One picture: the answer is printed, a box is drawn into a PNG. Many pictures, from files, folders
or a prepared data set: a line per picture in `predictions.jsonl`, written batch by batch, and a
report page; the same command goes on where a stopped one was. Bad pictures are counted.
"""

from __future__ import annotations

import glob
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ofa_jax.checkpoint.bucket import is_remote, local_folder
from ofa_jax.data.answering import allowed_answers, answer_ids
from ofa_jax.data.image_tokenizer import load_image_tokenizer
from ofa_jax.data.ops.image import read_image
from ofa_jax.data.ops.image_files import SUFFIXES, images_below
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Trie
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.generated_images import picture_settings, write_pictures
from ofa_jax.inference.image_stream import (
    REGION,
    answer_pictures,
    picture_files,
    prepared_pictures,
    with_region,
)
from ofa_jax.inference.predictor import OFAPredictor, Prediction, load
from ofa_jax.inference.weights import (
    find_checkpoint,
    trained_decoder_prompt,
    trained_lengths,
)
from ofa_jax.metrics.generation import Extractors

logger = logging.getLogger("ofa_jax")

_BINS = re.compile(r"<bin_(\d+)>\s*<bin_(\d+)>\s*<bin_(\d+)>\s*<bin_(\d+)>")
_INK = (230, 40, 40)


def infer(
    *,
    instruction: str,
    checkpoint: str = "",
    images: Sequence[str] = (),
    prepared_data: str = "",
    split: str = "validation",
    region: Sequence[float] | None = None,
    without_image: bool = False,
    answers: str | Sequence[str] = (),
    output_dir: str = "",
    batch_size: int = 8,
    image_side: int = 0,
    vocabulary: str = "",
    ema: bool | None = None,
    dtype: str = "",
    decoding: Mapping[str, Any] | None = None,
    sampling: bool = False,
    decoder_prompt: str = "",
    image_tokenizer: str = "",
    picture_side: int = 0,
    extractors: str = "",
    seed: int = 0,
) -> list[Prediction]:
    """Answers one instruction about each picture.

    Args:
      instruction: what to do, such as "what does the image describe?". Regions are four bins
        `<bin_12> ...`, or `{region}` with `region`.
      checkpoint: folder of a run, orbax folder, `.pt`, HuggingFace folder or hub repository; "" is
        the quickstart's run.
      images: files, folders, or patterns such as "photos/*.jpg".
      prepared_data: folder of prepared shards whose pictures are used.
      split: of that folder.
      region: x0, y0, x1, y1 in pixels of the picture; takes the place of `{region}`.
      without_image: the instruction is about text alone.
      answers: the only allowed answers: a list, or a file of them (`.txt`, `.json`, `.pkl`); ()
        allows all.
      output_dir: folder of the results; "" prints one picture's answer and writes a drawn box
        into the working directory, and takes "runs/infer" for several.
      batch_size: pictures per step, over all devices of this process.
      image_side: side in pixels of the model's input; 0 = as the run was trained, else 480.
      vocabulary: folder of the vocabulary; "" = the one beside the weights.
      ema: take the moving average of the weights; None = where a run of ours keeps one, as its
        own scores did.
      dtype: type of the computation; "" = as the checkpoint says.
      decoding: settings of `BeamConfig` (or `SamplingConfig`) that differ from those of free
        instructions: 5 beams, at most 64 tokens, no repeated 3-grams.
      sampling: draw the answer instead of searching the likeliest.
      decoder_prompt: "none", "source" or "source_and_eos", see `Answering`; "" = as the task of
        the run wants it.
      image_tokenizer: makes pixels of image codes: a codebook (`.npz`), weights of a VQGAN
        (`last.ckpt`) or `module:function`. With it the answer is a picture, written as PNG:
        without an image the one that the instruction describes, else the image with its middle
        made anew.
      picture_side: side in pixels of the pictures that the model makes; 0 = as it was trained.
      extractors: `module:function` with CLIP's embeddings, see `ofa_jax.metrics.generation`: of
        several samples the one that fits the caption best is the first.
      seed: of sampling.

    Returns:
      The predictions of a single picture or text; [] for many, and for pictures as answers, which
      are in files.

    Raises:
      ValueError: a setting that cannot work, or a bad single picture.
    """
    if not instruction.strip():
        raise ValueError("--instruction is empty; say what the model should do")
    local_folder(output_dir, "OUTPUT_DIR")
    paths = find_pictures(images)
    has_image = bool(paths or prepared_data)
    without_image = without_image or (bool(image_tokenizer) and not has_image)
    _check_inputs(instruction, paths, prepared_data, region, without_image)
    if image_tokenizer and (prepared_data or len(paths) > 1):
        raise ValueError("--image_tokenizer: a picture as answer is made of one instruction only")
    pixels = load_image_tokenizer(image_tokenizer) if image_tokenizer else None
    source = find_checkpoint(checkpoint)
    side = image_side or (trained_lengths(source) or {}).get("image")
    predictor = load(
        source,
        vocabulary=vocabulary or None,
        image_size=side or None,
        dtype=dtype or None,
        ema=ema,
        code_image_size=picture_side or None,
        progress=lambda line: logger.info("%s", line),
    )
    if pixels is not None:
        name = f"{pathlib.Path(paths[0]).stem}_infilled.png" if paths else "generated.png"
        files = write_pictures(
            predictor,
            instruction,
            read_image(paths[0]) if paths else None,
            pixels,
            pathlib.Path(output_dir) / name,
            decoding=picture_settings(decoding, sampling or not paths),
            extractors=Extractors.load(extractors) if extractors else None,
            seed=seed,
        )
        print("\n".join(map(str, files)))
        return []
    settings = _settings(decoding, sampling)
    options: dict[str, Any] = {
        "decoding": settings,
        "decoder_prompt": decoder_prompt or trained_decoder_prompt(source),
        "seed": seed,
    }
    if answers != ():
        options["constraint"] = _closed_set(answers, predictor, settings.max_length())
    check_regions(instruction, predictor)
    if prepared_data or len(paths) > 1:
        pictures = (
            prepared_pictures(prepared_data, split) if prepared_data else picture_files(paths)
        )
        answer_pictures(
            predictor,
            pictures,
            instruction,
            region,
            options,
            output_dir,
            batch_size,
            {
                "model": checkpoint if is_remote(checkpoint) else source,
                "input_pixels": predictor.image_size,
            },
        )
        return []
    image = read_image(paths[0]) if paths else None
    asked = with_region(instruction, region, image, predictor)
    prediction = predictor.generate(image, asked, **options)
    print(prediction.text)
    if image is not None and prediction.box is not None:
        name = f"{pathlib.Path(paths[0]).stem}_box.png"
        target = pathlib.Path(output_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_box(image, prediction.box).save(target)
        x0, y0, x1, y1 = (round(v, 1) for v in prediction.box)
        print(f"box: {x0} {y0} {x1} {y1} (left, top, right, bottom, pixels); drawn in {target}")
    return [prediction]


def find_pictures(names: Sequence[str]) -> list[str]:
    """Picture files behind files, folders and patterns, in order, each folder sorted.

    Args:
      names: as the user gave them.

    Raises:
      ValueError: something that does not exist, or a folder without pictures.
    """
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        path = pathlib.Path(name)
        if path.is_dir():
            inside = images_below(path)
            if not inside:
                raise ValueError(
                    f"--image {name}: the folder has no pictures ({', '.join(sorted(SUFFIXES))})"
                )
            found += [str(path / one) for one in inside]
        elif path.is_file():
            found.append(name)
        elif matches := sorted(glob.glob(name, recursive=True)):
            found += [match for match in matches if pathlib.Path(match).is_file()]
        else:
            raise ValueError(f"--image {name}: no such file or folder")
    return found


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
                f"region {match.group()} is no box of the picture: left < right and top < bottom, "
                f"and at most <bin_{last}>, the edge of the model's input of {side} pixels "
                "(--region takes pixels of the picture instead)"
            )


def draw_box(image: np.ndarray, box: Sequence[float]) -> Image.Image:
    """The picture with a frame around a region.

    Args:
      image: uint8[y, x, 3].
      box: x0, y0, x1, y1 in its pixels.
    """
    scale = max(1, -(-256 // max(image.shape[:2])))  # tiny pictures are enlarged to be seen
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    x0, x1 = sorted((float(box[0]) * scale, float(box[2]) * scale))
    y0, y1 = sorted((float(box[1]) * scale, float(box[3]) * scale))
    width = max(2, round(max(picture.size) / 200))
    ImageDraw.Draw(picture).rectangle((x0, y0, x1, y1), outline=_INK, width=width)
    return picture


def _check_inputs(
    instruction: str,
    paths: Sequence[str],
    prepared_data: str,
    region: Sequence[float] | None,
    without_image: bool,
) -> None:
    has_image = bool(paths or prepared_data)
    if not has_image and not without_image:
        raise ValueError(
            "no image: give --image FILE or FOLDER, or --without_image if the instruction is about "
            "text alone"
        )
    if has_image and without_image:
        raise ValueError("--image and --without_image exclude each other")
    if (region is not None) != (REGION in instruction):
        raise ValueError(
            f"--region x0,y0,x1,y1 and {REGION} in the instruction belong together, as in "
            f"--instruction 'what color is the car in the region? region: {REGION}'"
        )
    if region is not None and len(region) != 4:
        raise ValueError(f"--region is x0,y0,x1,y1 in pixels, got {len(region)} numbers")


def _settings(decoding: Mapping[str, Any] | None, sampling: bool) -> BeamConfig | SamplingConfig:
    given = dict(decoding or {})
    defaults: dict[str, Any] = {"max_len_b": 64}
    try:
        if sampling:
            return SamplingConfig(**(defaults | given))
        defaults |= {"beam": 5, "no_repeat_ngram_size": 3}
        return BeamConfig(**(defaults | given))
    except TypeError as error:
        raise ValueError(f"decoding: {error}") from error


def _closed_set(answers: str | Sequence[str], predictor: OFAPredictor, max_length: int) -> Trie:
    try:
        ids = answer_ids(allowed_answers(answers), predictor.tokenizer, " ", max_length)
    except ValueError as error:
        raise ValueError(f"--answers: {error}") from error
    return Trie.build(ids)

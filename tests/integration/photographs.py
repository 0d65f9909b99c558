"""A small data set in the official TSV layout, from photographs that installed libraries ship.

The annotations are invented; the images, their sizes and their JPEG encoding are real.
"""

import functools
import io
import json
import pathlib

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from ofa_jax.data.sources import tsv_writer

# Name -> what is to be seen, and where (fractions x0, y0, x1, y1).
PHOTOGRAPHS = {
    "coffee": ("a cup of coffee on a wooden table", "cup", (0.2, 0.2, 0.7, 0.8)),
    "astronaut": ("a woman in an orange space suit", "woman", (0.2, 0.0, 0.8, 1.0)),
    "chelsea": ("a cat looking to the side", "cat", (0.1, 0.1, 0.9, 1.0)),
    "grace_hopper": ("a woman in a navy uniform", "woman", (0.2, 0.1, 0.9, 1.0)),
    "rocket": ("a rocket on its launch pad at night", "rocket", (0.45, 0.1, 0.6, 0.9)),
    "motorcycle_left": ("a motorcycle in a garage", "motorcycle", (0.15, 0.2, 0.9, 0.95)),
    "motorcycle_right": ("a garage with a motorcycle", "motorcycle", (0.1, 0.2, 0.85, 0.95)),
    "retina": ("the back of an eye", "eye", (0.05, 0.05, 0.95, 0.95)),
    "hubble_deep_field": ("many galaxies in a black sky", "galaxy", (0.4, 0.5, 0.5, 0.6)),
    "immunohistochemistry": ("stained tissue of a gland", "tissue", (0.0, 0.0, 1.0, 1.0)),
    # These are grey.
    "camera": ("a man with a camera on a lawn", "man", (0.2, 0.15, 0.7, 1.0)),
    "coins": ("rows of old coins", "coin", (0.05, 0.1, 0.2, 0.3)),
    "moon": ("craters of the moon", "crater", (0.4, 0.4, 0.7, 0.7)),
    "brick": ("a wall of bricks", "brick", (0.0, 0.4, 0.3, 0.6)),
    "grass": ("blades of grass", "grass", (0.0, 0.0, 1.0, 1.0)),
    "gravel": ("small stones on the ground", "stone", (0.5, 0.5, 0.7, 0.7)),
    "clock": ("a blurred clock", "clock", (0.2, 0.1, 0.8, 0.9)),
    "cell": ("a cell under the microscope", "cell", (0.2, 0.2, 0.8, 0.8)),
}
# Of these the right half serves as another image.
HALVED = (
    *("astronaut", "coffee", "chelsea", "rocket", "retina"),
    *("camera", "coins", "brick", "moon", "grass"),
)
SUBJECTS = PHOTOGRAPHS | {
    f"{name}_half": (f"a part of {caption}", label, (0.1, 0.1, 0.7, 0.8))
    for name, (caption, label, _) in PHOTOGRAPHS.items()
    if name in HALVED
}


@functools.cache
def photographs() -> dict[str, np.ndarray]:
    """uint8[y, x, 3], or uint8[y, x] of grey ones: the images of `SUBJECTS` by name."""
    import matplotlib
    import skimage.data

    directory = pathlib.Path(matplotlib.get_data_path()) / "sample_data"
    left, right, _ = skimage.data.stereo_motorcycle()
    pictures = {
        "grace_hopper": np.asarray(Image.open(directory / "grace_hopper.jpg").convert("RGB")),
        "motorcycle_left": left,
        "motorcycle_right": right,
    }
    for name in PHOTOGRAPHS:
        if name not in pictures:
            pictures[name] = getattr(skimage.data, name)()
    for name in HALVED:
        pictures[f"{name}_half"] = pictures[name][:, pictures[name].shape[1] // 2 :]
    return {name: pictures[name] for name in SUBJECTS}


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_official_files(directory: pathlib.Path, *, patch: int = 8) -> None:
    """Writes the four official TSV files and the negative samples into a directory.

    `patch` is the side of an image code in pixels: (128 / patch) ** 2 codes of each image.
    """
    pairs, detections, infillings, texts = [], [], [], []
    pictures = photographs()
    squares = {
        name: np.asarray(Image.fromarray(pixels).convert("RGB").resize((256, 256)))
        for name, pixels in pictures.items()
    }
    centers = np.stack([square[64:192, 64:192] for square in squares.values()])
    codebook = PatchCodebook.fit(centers, num_codes=256, patch=patch)
    for name, pixels in pictures.items():
        caption, label, fractions = SUBJECTS[name]
        height, width = pixels.shape[:2]
        box = np.array(fractions) * [width, height, width, height]
        common = {"image": jpeg(pixels), "image_id": name, "objects": [label]}
        pairs += [
            common | {"type": "caption", "captions": [caption], "dataset": "cc12m"},
            common
            | {
                "type": "qa",
                "question": f"Is there a {label}?",
                "answers": ["yes", "no"],
                "answer_conf": [0.9, 0.1],
            },
            common | {"type": "visual_grounding", "refexps": [f"the {label}"], "boxes": [box]},
        ]
        detections.append(common | {"boxes": [box, box * 0.9], "labels": [label, "thing"]})
        square = squares[name]
        codes = codebook.encode(square[64:192, 64:192]).reshape(-1)
        infillings.append(common | {"image": jpeg(square), "image_codes": codes})
        texts.append({"image_id": name, "text": f"{caption} , which is all that one can see"})

    directory.mkdir(parents=True, exist_ok=True)
    for file, row, examples in (
        ("vision_language_examples.tsv", tsv_writer.vision_language_row, pairs),
        ("detection_examples.tsv", tsv_writer.detection_row, detections),
        ("image_examples.tsv", tsv_writer.image_row, infillings),
        ("text_examples.tsv", tsv_writer.text_row, texts),
    ):
        tsv_writer.write(directory / file, [row(example) for example in examples])
    negatives = directory / "negative_sample"
    negatives.mkdir(exist_ok=True)
    captions = [caption for caption, _, _ in SUBJECTS.values()]
    (negatives / "all_captions.txt").write_text("\n".join(captions) + "\n")
    objects = sorted({label for _, label, _ in SUBJECTS.values()})
    (negatives / "object.txt").write_text("\n".join(objects) + "\n")
    by_type = {"is": ["yes", "no"], "how many": ["1", "2"], "other": ["cat", "cup", "coin"]}
    (negatives / "type2ans.json").write_text(json.dumps(by_type))

"""A made-up run directory with every kind of task, for tests of the report and to look at it.

`python -m tests.report.synthetic_run DIR` writes one.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

from ofa_jax.metrics.detection import match_objects
from ofa_jax.metrics.grounding import IOU_THRESHOLD, paired_ious
from ofa_jax.metrics.verdict import Verdict, of_hits, of_shares

COLOURS = {
    "red": (214, 40, 40), "green": (46, 160, 67), "blue": (38, 84, 214),
    "yellow": (240, 200, 30), "purple": (126, 58, 180), "cyan": (40, 190, 200),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS = {"grey": (128, 128, 128), "white": (238, 238, 238), "dark": (36, 38, 46)}
SIDE = 32
TASKS = {
    # task: (primary metric, final value, baselines, floor, aim)
    "scenes_visual_grounding": ("accuracy_at_iou_0.5", 0.88, {"chance": 0.06}, 0.6, 0.85),
    "scenes_grounded_captioning": ("exact_match", 0.75, {"majority": 0.05}, 0.5, 0.8),
    "scenes_vqa": ("vqa_accuracy", 0.79, {"chance": 0.2, "majority": 0.23}, 0.6, 0.8),
    "scenes_image_text_matching": ("accuracy", 0.74, {"chance": 0.5, "majority": 0.52}, 0.6, 0.8),
    "scenes_captioning": ("true_captions", 0.48, {"majority": 0.04}, 0.3, 0.6),
    "scenes_detection": ("f1", 0.66, {"majority": 0.0}, 0.4, 0.7),
    "scenes_image_infilling": ("code_accuracy", 0.65, {"majority": 0.55}, 0.6, 0.7),
    "scenes_text_infilling": ("exact_match", 0.38, {"majority": 0.4}, 0.3, 0.5),
    "scenes_grounded_vqa": ("vqa_accuracy", 0.47, {"chance": 0.31}, None, None),
    "scenes_caption_coco": ("cider_d", 1.21, {"majority": 0.11}, 0.8, 1.3),
}


def _scene(rng: np.random.Generator) -> tuple[Image.Image, str, list[dict]]:
    """An image, its background, and its objects ("box", "label", "colour", "shape")."""
    background = str(rng.choice(list(BACKGROUNDS)))
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[background])
    draw = ImageDraw.Draw(image)
    objects = []
    for half in range(int(rng.integers(1, 3))):
        size = int(rng.integers(9, 14))
        x = int(rng.integers(1, 16 - size + 1)) + 16 * half
        y = int(rng.integers(1, SIDE - size - 1))
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        box = (x, y, x + size, y + size)
        if shape == "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        elif shape == "square":
            draw.rectangle(box, fill=COLOURS[colour])
        elif shape == "triangle":
            draw.polygon([(x, y + size), (x + size, y + size), (x + size / 2, y)], COLOURS[colour])
        else:
            draw.rectangle((x + size / 3, y, x + 2 * size / 3, y + size), fill=COLOURS[colour])
            draw.rectangle((x, y + size / 3, x + size, y + 2 * size / 3), fill=COLOURS[colour])
        label = f"{colour} {shape}"
        objects.append(
            {"box": [float(v) for v in box], "label": label, "colour": colour, "shape": shape}
        )
    return image, background, objects


def _shaken(box: list[float], rng: np.random.Generator, right: bool) -> list[float]:
    scale = 0.8 if right else 6.0
    return [float(np.clip(v + rng.normal(0, scale), 0, SIDE)) for v in box]


def _row(task: str, right: bool, rng: np.random.Generator, save) -> dict[str, object]:
    """One prediction of a task, right or wrong."""
    image, background, objects = _scene(rng)
    first = objects[0]
    wrong_colour = str(rng.choice([c for c in COLOURS if c != first["colour"]]))
    plain = [{"box": o["box"], "label": o["label"]} for o in objects]
    bins = " ".join(f"<bin_{round(v / SIDE * 15)}>" for v in first["box"])
    row: dict[str, object] = {"image_size": [SIDE, SIDE], "references": [], "score": float(right)}
    [row["verdict"]] = of_hits([right])
    row["image"] = save("image", image)
    text: tuple[str, str, str]  # input, prediction, target
    if task.endswith("visual_grounding"):
        predicted = _shaken(first["box"], rng, right) if right or rng.random() < 0.9 else None
        overlaps = paired_ious([predicted], [first["box"]])
        row |= {"predicted_box": predicted, "true_box": first["box"], "score": float(overlaps[0])}
        [row["verdict"]] = of_hits(overlaps >= IOU_THRESHOLD)
        text = (f' which region does the text " {first["label"]} " describe?', bins, bins)
    elif task.endswith("grounded_captioning"):
        said = first["label"] if right else f"{wrong_colour} {first['shape']}"
        row["true_box"] = first["box"]
        text = (
            f" what does the region describe? region: {bins}",
            f"a {said}",
            f"a {first['label']}",
        )
    elif task.endswith("grounded_vqa"):
        row["true_box"] = first["box"]
        answer = first["colour"] if right else wrong_colour
        text = (f" what color is the object? region: {bins}", answer, first["colour"])
    elif task.endswith("vqa"):
        target = str(len(objects))
        text = (" how many objects are there?", target if right else "3", target)
    elif task.endswith("matching"):
        stated = first["label"] if rng.random() < 0.5 else f"{wrong_colour} {first['shape']}"
        target = "yes" if stated == first["label"] else "no"
        answer = target if right else {"yes": "no", "no": "yes"}[target]
        text = (f' does the image describe " a {stated} "?', answer, target)
    elif "caption" in task:
        words = " and ".join(f"a {o['label']}" for o in objects)
        target = f"{words} on a {background} background"
        said = target if right else target.replace(first["colour"], wrong_colour)
        row["references"] = [target, f"{words} on {background}", f"there is {words}"]
        if task.endswith("coco"):
            row |= {"score": float(rng.gamma(2.0, 0.6)), "verdict": Verdict.NONE}
        text = (" what does the image describe?", said, target)
    elif task.endswith("detection"):
        predicted = [{"box": _shaken(o["box"], rng, True), "label": o["label"]} for o in plain]
        if not right:
            predicted[0]["label"] = f"{wrong_colour} {first['shape']}"
        found = [index for _, index, _ in match_objects(predicted, plain)]
        row |= {"predicted_objects": predicted, "true_objects": plain, "found": found}
        row["score"] = 2 * len(found) / (len(predicted) + len(plain))
        [row["verdict"]] = of_shares([row["score"]])
        text = (" what are the objects in the image?", f"{bins} {first['label']}", first["label"])
    elif task.endswith("image_infilling"):
        pixels = np.asarray(image).astype(np.int32)
        hole, guess, ceiling = pixels.copy(), pixels.copy(), pixels.copy()
        hole[8:24, 8:24] = 128
        ceiling = ceiling // 24 * 24
        guess[8:24, 8:24] = np.roll(pixels, rng.integers(0, 6), axis=1)[8:24, 8:24] // 24 * 24
        for key, value in (("masked", hole), ("infilled", guess), ("target", ceiling)):
            row[f"{key}_image"] = save(key, Image.fromarray(value.clip(0, 255).astype(np.uint8)))
        row |= {"score": float(rng.beta(6, 3)), "verdict": Verdict.NONE}
        codes = " ".join(f"<code_{c}>" for c in rng.integers(0, 64, 16))
        text = (" what is the image in the middle part?", codes, codes)
    else:
        target = f"the {first['label']} is left of the small {wrong_colour} square"
        masked = target.replace(f"{first['label']} is", "<mask>")
        said = target if right else target.replace(first["colour"], wrong_colour, 1)
        row["image"] = None
        text = (f' what is the complete text of " {masked} "?', said, target)
    row["input_text"], row["prediction_text"], row["target_text"] = text
    return row


def _curves(rng: np.random.Generator, steps: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(10, steps + 1, 10):
        done = step / steps
        row: dict[str, object] = {
            "step": step,
            "time": 0.07 * step,
            "learning_rate": 3e-4 * min(step / 200, 1) * (1 - done),
            "gradient_norm": float(1.2 + 4 * np.exp(-20 * done) + rng.gamma(2, 0.1)),
            "examples_per_second": float(rng.normal(920, 30)) if step > 20 else 60.0,
            "data_wait": float(rng.beta(2, 60)),
        }
        losses = []
        for k, task in enumerate(TASKS):
            noise = np.exp(rng.normal(0, 0.15))
            losses.append((0.15 + 0.06 * k + 3.5 * np.exp(-(5 + k) * done)) * noise)
            row[f"loss/{task}"] = float(losses[-1])
        row["loss"] = float(np.mean(losses))
        if step % (steps // 10) == 0:
            for k, (task, (metric, value, baselines, _, _)) in enumerate(TASKS.items()):
                start = max(baselines.values()) * 0.9
                rise = (1 - np.exp(-(2 + k % 4) * done)) / (1 - np.exp(-(2 + k % 4)))
                row[f"eval/{task}/{metric}"] = start + (value - start) * float(rise)
                row[f"eval/{task}/other"] = 0.1
        rows.append(row)
    return rows


def write_run(
    directory: pathlib.Path, *, rows_per_task: int = 96, steps: int = 4800
) -> pathlib.Path:
    """Writes a complete run directory.

    Args:
      directory: directory to create.
      rows_per_task: predictions per task; the first 48 have images.
      steps: length of the curves.

    Returns:
      `directory`.
    """
    rng = np.random.default_rng(0)
    (directory / "predictions").mkdir(parents=True, exist_ok=True)
    tasks: dict[str, dict] = {}
    for task, (metric, value, baselines, floor, aim) in TASKS.items():
        tasks[task] = {metric: value, "mean_iou": 0.5, "n": 512, "primary": metric, **baselines}
        tasks[task] |= {"floor": floor, "aim": aim} if floor else {}
        lines = []
        for index in range(rows_per_task):

            def save(kind, image, task=task, index=index):
                if index >= 48:
                    return None
                name = f"{index:04d}.png" if kind == "image" else f"{index:04d}_{kind}.png"
                path = directory / "examples" / task / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                return str(path.relative_to(directory))

            row = _row(task, bool(rng.random() < min(value, 0.95)), rng, save)
            lines.append(json.dumps({"example_id": f"{index:04d}", **row}))
        (directory / "predictions" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    splits = {}
    for split, factor in (
        ("validation", 1.0), ("test", 0.99), ("compositions", 0.6), ("unseen_style", 0.9)
    ):  # fmt: skip
        splits[split] = {
            task: {**entry, entry["primary"]: entry[entry["primary"]] * factor}
            for task, entry in tasks.items()
        }
    run = {
        "name": "scenes-tiny-cpu",
        "description": "All tasks of one small world, learnt by one encoder-decoder.",
        "date": "2026-11-22 07:30 UTC",
        "model": "nano",
        "num_parameters": 624_512,
        "steps": steps,
        "wall_seconds": 333.0,
        "hardware": "2 CPU cores",
        "batch_size": 64,
        "seed": 0,
        "mixture": "scenes_pretrain",
        "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    }
    record = {"run": run, "tasks": tasks, "splits": splits}
    (directory / "metrics.json").write_text(json.dumps(record, indent=1))
    curves = "\n".join(json.dumps(row) for row in _curves(rng, steps))
    (directory / "metrics.jsonl").write_text(curves + "\n")
    (directory / "config.gin").write_text("MODEL = 'nano'\nTRAIN_STEPS = 4800\nBATCH_SIZE = 64\n")
    return directory


if __name__ == "__main__":
    print(write_run(pathlib.Path(sys.argv[1])))

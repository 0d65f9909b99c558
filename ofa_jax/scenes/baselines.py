"""What one scores on `scenes` without looking: the numbers that every result stands beside.

Each function answers "how good is the best constant answer", computed on the very examples that
it is judged by (so it is, if anything, too good), or "how good is a guess".
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from ofa_jax.scenes.source import Example
from ofa_jax.scenes.truth import truth
from ofa_jax.scenes.world import Scene

_GRID = 16
_FREQUENT = 40


def majority(values: Iterable[str]) -> tuple[str, float]:
    """The most frequent value and its share; the first one met wins a tie.

    Raises:
      ValueError: without values.
    """
    counts = collections.Counter(values)
    if not counts:
        raise ValueError("there is no majority among no values")
    value, count = counts.most_common(1)[0]
    return value, count / sum(counts.values())


def answer_shares(examples: Sequence[Example]) -> dict[str, float]:
    """Share of the most frequent answer, over all questions ("all") and by kind of question."""
    entries = [entry for example in examples for entry in example["qa"]]
    question_types = sorted({entry["kind"] for entry in entries})
    shares = {"all": majority(entry["answer"] for entry in entries)[1]}
    for asked in question_types:
        shares[asked] = majority(e["answer"] for e in entries if e["kind"] == asked)[1]
    return shares


def constant_box(
    boxes: np.ndarray, pixels: int, threshold: float = 0.5
) -> tuple[np.ndarray, float]:
    """The square that overlaps the most boxes.

    Args:
      boxes: float[n, 4] xyxy in pixels.
      pixels: side of the image.
      threshold: smallest intersection over union that counts.

    Returns:
      (float32[4] the best of all squares on a grid of a sixteenth of the side, the share of boxes
      that it overlaps enough).
    """
    steps = np.arange(_GRID + 1, dtype=np.float32) * (pixels / _GRID)
    x, y, side = (a.ravel() for a in np.meshgrid(steps, steps, steps[1:], indexing="ij"))
    candidates = np.stack([x, y, x + side, y + side], axis=1)
    candidates = candidates[candidates.max(1) <= pixels]
    boxes = np.asarray(boxes, np.float32)
    low = np.maximum(candidates[:, None, :2], boxes[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = np.prod(candidates[:, 2:] - candidates[:, :2], axis=1)
    box_areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    overlap = shared / (areas[:, None] + box_areas[None] - shared)
    shares = (overlap >= threshold).mean(1)
    best = int(shares.argmax())
    return candidates[best], float(shares[best])


def constant_caption(examples: Sequence[Example]) -> tuple[str, float]:
    """The caption, among the frequent ones, that is true of the most scenes, and their share."""
    counts = collections.Counter(c for example in examples for c in example["captions"])
    scenes = [Scene.from_dict(example["scene"]) for example in examples]
    found = ("", -1.0)
    for caption, _ in counts.most_common(_FREQUENT):
        share = float(np.mean([truth(scene, caption) for scene in scenes]))
        if share > found[1]:
            found = (caption, share)
    return found


def region_answer_shares(examples: Sequence[Example]) -> dict[str, float]:
    """Ways to answer questions about a region without knowing the region.

    Args:
      examples: examples with `region_qa`.

    Returns:
      "chance": a guess among the possible answers; "any_object": the right attribute of an
      object of the image drawn at random; "majority": the most frequent answer of each kind.
    """
    chance, any_object = [], []
    answers: dict[str, list[str]] = collections.defaultdict(list)
    for example in examples:
        things = example["scene"]["objects"]
        for entry in example["region_qa"]:
            chance.append(1 / len(entry["candidates"]))
            any_object.append(np.mean([o[entry["kind"]] == entry["answer"] for o in things]))
            answers[entry["kind"]].append(entry["answer"])
    right = sum(majority(values)[1] * len(values) for values in answers.values())
    return {
        "chance": float(np.mean(chance)),
        "any_object": float(np.mean(any_object)),
        "majority": right / len(chance),
    }


def majority_code(codes: np.ndarray) -> tuple[int, float]:
    """The most frequent image code and its share.

    Args:
      codes: int[...], the codes of any number of images.
    """
    counts = np.bincount(np.asarray(codes).ravel())
    return int(counts.argmax()), float(counts.max() / counts.sum())


def baselines(
    examples: Sequence[Example], codes: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Baselines of the eight tasks and of grounded question answering.

    Args:
      examples: examples of one split, a few hundred or more.
      codes: int[...] codes of their middle parts, if image infilling shall be covered.

    Returns:
      Task family -> {baseline: value in 0..1}; the metric is accuracy, exact match, the share of
      true captions, of boxes with IoU >= 0.5, or of objects found with their label.
    """
    pixels = examples[0]["scene"]["pixels"]
    boxes = np.concatenate([example["boxes"] for example in examples])
    labels = [label for example in examples for label in example["labels"]]
    meant = np.concatenate([e["boxes"][e["refexp_box_index"]] for e in examples])
    common = majority(labels)[0]
    of_common = boxes[[label == common for label in labels]]
    found = constant_box(of_common, pixels)[1] * len(of_common) / len(boxes)
    captions = [c for example in examples for c in example["region_captions"]]
    result = {
        "visual_grounding": {"constant": constant_box(meant, pixels)[1]},
        "grounded_captioning": {"majority": majority(captions)[1]},
        "vqa": {"majority": answer_shares(examples)["all"]},
        "image_text_matching": {"chance": 0.5},
        "captioning": {"constant": constant_caption(examples)[1]},
        "detection": {"constant": found},
        "text_infilling": {"majority": majority(e["text"] for e in examples)[1]},
        "grounded_vqa": region_answer_shares(examples),
    }
    if codes is not None:
        result["image_infilling"] = {"majority": majority_code(codes)[1]}
    return result

"""Whether generated images show what their captions say, in the world of `scenes`.

An image is right when the scene that is read off it makes its caption true. Beside each share stand
what true images of other captions score, and what the real images score once the image tokenizer
has coded them: a model cannot be expected to do better.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.evaluation.scoring import Result
from ofa_jax.metrics.verdict import of_hits
from ofa_jax.scenes import GrammarError, parse, read, truth
from ofa_jax.scenes.descriptions import label
from ofa_jax.scenes.grammar import Noun, Related
from ofa_jax.scenes.world import Scene, SceneObject, relation_holds


def true_image(
    images: Sequence[np.ndarray], examples: Sequence[Example], coded: Sequence[np.ndarray]
) -> Result:
    """Images of `scenes`: share of those that their caption is true of.

    "right_color", "right_shape" and "right_background" ask only for what the caption says of these,
    "right_relation" for two objects that stand so and share color or shape with those it names;
    each counts where captions say something of it. Baseline: the true image of another caption.

    Args:
      images: generated ones, uint8[y, x, 3].
      examples: prepared; "text" is the caption, "scene" the scene of the real image.
      coded: the real images from their codes.
    """
    scenes = [read(image) for image in images]
    captions = [str(example["text"]) for example in examples]
    real = [Scene.from_dict(example["scene"]) for example in examples]
    found = [_judged(*pair) for pair in zip(scenes, captions)]
    others = [_judged(*pair) for pair in zip(np.roll(np.array(real, object), 1), captions)]
    metrics = _means(found)
    metrics |= {f"another_{name}": share for name, share in _means(others).items()}
    metrics["true_once_coded"] = float(
        np.mean([truth(read(image), caption) for image, caption in zip(coded, captions)])
    )
    hits = [bool(one["true"]) for one in found]
    return Result(
        primary="true",
        metrics=metrics,
        baseline=metrics["another_true"],
        scores=[float(hit) for hit in hits],
        verdicts=of_hits(np.array(hits)),
        details=[{"prediction_text": describe(scene)} for scene in scenes],
    )


def describe(scene: Scene) -> str:
    """What an image was read as, in words, such as "red circle, blue square on gray"."""
    things = ", ".join(label(thing) for thing in scene.objects) or "nothing"
    return f"{things} on {scene.background}"


def _judged(scene: Scene, caption: str) -> dict[str, bool]:
    """What of a caption is so in a scene, as far as it says something."""
    found = {"true": truth(scene, caption)}
    try:
        sentence = parse(caption)
    except GrammarError:
        return found
    nouns = list(sentence.nouns())
    for name, field in (("right_color", "color"), ("right_shape", "shape")):
        named = collections.Counter(getattr(noun, field) for noun in nouns)
        shown = collections.Counter(getattr(thing, field) for thing in scene.objects)
        del named[""]
        if named:
            found[name] = named <= shown
    if background := getattr(sentence, "background", ""):
        found["right_background"] = background == scene.background
    if isinstance(sentence, Related):
        found["right_relation"] = any(
            a is not b
            and _resembles(a, sentence.first)
            and _resembles(b, sentence.second)
            and relation_holds(a, sentence.relation, b)
            for a in scene.objects
            for b in scene.objects
        )
    return found


def _resembles(thing: SceneObject, noun: Noun) -> bool:
    return thing.color == noun.color or thing.shape == noun.shape


def _means(judged: Sequence[Mapping[str, bool]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for one in judged for name in one))
    return {name: float(np.mean([one[name] for one in judged if name in one])) for name in names}

"""Wrong captions and answers for image-text matching (SPEC 4.3.2).

Functions over given lists: all captions, all object names, answers by type. Every function draws
from an explicit generator, and what it returns always differs from what is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

HOW_MANY = "how many"
OTHER = "other"


def other_item(items: Sequence[str], current: str, rng: np.random.Generator) -> str:
    """A random item that is not the current one.

    All items but the last are drawn with equal probability; the last takes the place of the
    current one (SPEC 4.3.2).

    Args:
      items: what to choose from.
      current: the item that must not come out.
      rng: source of randomness.

    Returns:
      An item.

    Raises:
      ValueError: no item differs from the current one.
    """
    if not items:
        raise ValueError("the list of negatives is empty")
    drawn = items[int(rng.integers(max(len(items) - 1, 1)))]
    if drawn == current:
        drawn = items[-1]
    if drawn == current:
        # The list repeats itself; any other item will do.
        drawn = next((item for item in items if item != current), None)
    if drawn is None:
        raise ValueError(f"every item of the list of negatives is {current!r}")
    return drawn


def negative_caption(
    caption: str,
    objects: Sequence[str],
    all_captions: Sequence[str],
    all_objects: Sequence[str],
    rng: np.random.Generator,
    *,
    swap_probability: float = 0.4,
) -> str:
    """A caption that does not describe the image.

    With `swap_probability`, if the objects of the image are known, one of them is replaced by
    another name wherever it occurs; otherwise the caption of another image is taken.

    OFA-NOTE: SPEC 4.3.2. Where the object does not occur in the caption the official negative
    equals the positive. Here another caption is taken instead.

    Args:
      caption: the right caption.
      objects: names of objects in the image, may be empty.
      all_captions: captions of other images.
      all_objects: object names of the whole data set.
      rng: source of randomness.
      swap_probability: of replacing an object.

    Returns:
      Another caption.

    Raises:
      ValueError: the lists hold nothing else.
    """
    if rng.random() < swap_probability and len(objects):
        name = objects[int(rng.integers(len(objects)))]
        swapped = caption.replace(name, other_item(all_objects, name, rng)) if name else caption
        if swapped != caption:
            return swapped
    return other_item(all_captions, caption, rng)


def types_of_answers(answers_by_type: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Type of each answer, the type "other" left out.

    Args:
      answers_by_type: answer type to its answers, as in type2ans.json.

    Returns:
      Answer to type; an answer with several types has the last one.
    """
    return {
        answer: answer_type
        for answer_type, answers in answers_by_type.items()
        if answer_type != OTHER
        for answer in answers
    }


def negative_answer(
    answer: str,
    confidence: float,
    answers_by_type: Mapping[str, Sequence[str]],
    answer_types: Mapping[str, str],
    rng: np.random.Generator,
) -> str:
    """A wrong answer, of the same type as the right one if that is certain enough.

    A number becomes one of its neighbors half of the time. OFA-NOTE: SPEC 4.3.2. The neighbor of
    zero is always one; the official guard fails and lets "-1" through.

    Args:
      answer: the right answer.
      confidence: of the right answer, 0 to 1; the type is used if it exceeds u + 0.1 with u uniform
        in [0, 1).
      answers_by_type: answer type to its answers; must have the type "other".
      answer_types: result of `types_of_answers`.
      rng: source of randomness.

    Returns:
      Another answer.

    Raises:
      ValueError: the type "other" is missing, or the lists hold nothing else.
    """
    if OTHER not in answers_by_type:
        raise ValueError(f"answers_by_type needs the type {OTHER!r}, has {sorted(answers_by_type)}")
    u = rng.random()
    answer_type = answer_types.get(answer)
    if answer_type is not None and confidence > u + 0.1:
        if answer_type == HOW_MANY and answer.isdecimal() and u > 0.5:
            step = -1 if int(answer) > 0 and rng.random() < 0.5 else 1
            return str(int(answer) + step)
        if any(item != answer for item in answers_by_type[answer_type]):
            return other_item(answers_by_type[answer_type], answer, rng)
    return other_item(answers_by_type[OTHER], answer, rng)

"""Scores of generated pictures: predicted codes through an image tokenizer into a user's networks.

After a split is predicted (`streaming`), its work files are read once more; images exist for one
batch. The formulas are in `ofa_jax.metrics.generation` (SPEC 7.9, 8.5).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ofa_jax.data.ops.image_tokenizer import ImageTokenizer
from ofa_jax.data.tasks.instruction import Slot
from ofa_jax.data.tasks.task import OFATask, image_tokenizer_of
from ofa_jax.evaluation.streaming import Lines, predicted_lines
from ofa_jax.inference.code_images import decoded_images
from ofa_jax.metrics.generation import Extractors, generation_scores


def is_text_to_image(task: OFATask) -> bool:
    """Whether a task makes whole pictures: codes are asked for, and no image is given."""
    return task.target_modality == "CODE" and task.instructions[0].image_slot is None


def generated_scores(
    task: OFATask,
    works: Sequence[Lines],
    tokenizer: ImageTokenizer,
    extractors: Extractors,
    *,
    real_moments: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
    """Scores the images of a predicted split.

    Args:
      task: a text-to-image task.
      works: its complete lines, one entry per shard.
      tokenizer: of the codes.
      extractors: the networks; they decide which scores there are.
      real_moments: (mean, covariance) of real images' features, for FID. Without them, the
        images of the true codes are the real ones, where every example has codes.

    Returns:
      Of "fid", "inception_score", "clip_score" those that can be computed.
    """
    slots = [piece for piece in task.instructions[0].source if isinstance(piece, Slot)]
    captions, true, written = [], [], []
    for line in predicted_lines(works):
        texts = (str(line["example"][slot.field]) for slot in slots if slot.modality == "TEXT")
        captions.append(" ".join(texts))
        true.append(len(line["example"].get("image_codes", ())))
        written.append(len(line["row"]["codes"]))
    # All images have one size, also those whose codes ended early.
    length = max(true) or max(written)
    compare = real_moments is None and extractors.features is not None and all(true)

    def grids(part: str) -> Iterator[np.ndarray]:
        for line in predicted_lines(works):
            codes = line["row"]["codes"] if part == "predicted" else line["example"]["image_codes"]
            yield np.asarray(codes, np.int64)

    return generation_scores(
        decoded_images(grids("predicted"), tokenizer, length),
        captions,
        extractors,
        real=decoded_images(grids("true"), tokenizer) if compare else None,
        real_moments=real_moments,
    )


def load_moments(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the statistics of real images, as FID programs write them.

    Args:
      path: an `.npz` file with `mu` float[d] and `sigma` float[d, d].

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"real_statistics: there is no file {path}")
    try:
        with np.load(file) as arrays:
            found: dict[str, np.ndarray] = {name: arrays[name] for name in ("mu", "sigma")}
    except (KeyError, ValueError, OSError, AttributeError, TypeError) as error:
        raise ValueError(f"real_statistics: {path} has no arrays mu and sigma") from error
    return found["mu"], found["sigma"]


@dataclasses.dataclass(frozen=True)
class CodeImages:
    """How predicted codes are shown and scored as images.

    Attributes:
      tokenizers: by name of the task; tasks without codes have none.
      extractors: networks that score generated images, or None.
      real_moments: of the features of real images, or None.
    """

    tokenizers: Mapping[str, ImageTokenizer | None]
    extractors: Extractors | None = None
    real_moments: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of_settings(
        cls, tasks: Sequence[OFATask], image_tokenizer: str, extractors: str, real_statistics: str
    ) -> CodeImages:
        """Loads everything, so that a mistake costs nothing.

        Args:
          tasks: of the evaluation.
          image_tokenizer: name of the tokenizer of tasks that do not bring their own, or "".
          extractors: "module:function", or "".
          real_statistics: path of an `.npz` file, or "".

        Raises:
          ValueError: something cannot be loaded, or is given without what it needs.
        """
        tokenizers = {task.name: image_tokenizer_of(task, image_tokenizer) for task in tasks}
        generating = [task.name for task in tasks if is_text_to_image(task)]
        if extractors and not any(tokenizers[name] for name in generating):
            raise ValueError(
                "extractors score generated images: they need a text-to-image task and "
                "image_tokenizer, which makes images of its codes"
            )
        if real_statistics and not extractors:
            raise ValueError("real_statistics are compared with features: give extractors too")
        return cls(
            tokenizers,
            Extractors.load(extractors) if extractors else None,
            load_moments(real_statistics) if real_statistics else None,
        )

    def scores(self, task: OFATask, works: Sequence[Lines]) -> dict[str, float]:
        """Scores of a predicted split's images; {} where there is nothing to score.

        Args:
          task: of the split.
          works: its complete lines.
        """
        tokenizer = self.tokenizers[task.name]
        if self.extractors is None or tokenizer is None or not is_text_to_image(task):
            return {}
        return generated_scores(
            task, works, tokenizer, self.extractors, real_moments=self.real_moments
        )

"""seqio's face of a model batch: from task features to the rows that the model reads.

For the inputs of t5x that come through seqio: its stock training input, its teacher-forced
evaluation, and `infer.py`. The rows are those of `ofa_jax.data.tasks.features.pad_row`, with two
differences that seqio dictates: flags have shape [1] in place of [], and there are no task ids.
`model_inputs` undoes the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
import seqio
import tensorflow as tf

from ofa_jax.data.tasks.features import pad_row
from ofa_jax.data.tasks.seqio_tasks.task import FEATURE_KEYS

_Spec = seqio.FeatureConverter.FeatureSpec
_FLAG, _HOLE = 1, 4
FLAGS = ("encoder_image_masks", "decoder_code_masks")


class OFAFeatureConverter(seqio.FeatureConverter):
    """Pads the features of OFA tasks to static shapes. Examples are never packed.

    `task_feature_lengths` has the three entries of TASK_FEATURE_LENGTHS: "inputs", "targets"
    (tokens) and "image" (pixels per side); the lengths of the other features follow.
    """

    TASK_FEATURES = {  # noqa: RUF012  (the name and form that seqio looks for)
        "inputs": _Spec(dtype=tf.int32),
        "targets": _Spec(dtype=tf.int32),
        "decoder_inputs": _Spec(dtype=tf.int32),
        "image": _Spec(dtype=tf.uint8, rank=3),
        "image_mask": _Spec(dtype=tf.bool),
        "image_hole": _Spec(dtype=tf.int32),
        "code_mask": _Spec(dtype=tf.bool),
        "loss_weights": _Spec(dtype=tf.float32),
    }
    MODEL_FEATURES = {  # noqa: RUF012
        "encoder_input_tokens": _Spec(dtype=tf.int32),
        "encoder_images": _Spec(dtype=tf.uint8, rank=3),
        "encoder_image_masks": _Spec(dtype=tf.bool),
        "encoder_image_holes": _Spec(dtype=tf.int32),
        "decoder_input_tokens": _Spec(dtype=tf.int32),
        "decoder_target_tokens": _Spec(dtype=tf.int32),
        "decoder_loss_weights": _Spec(dtype=tf.float32),
        "decoder_code_masks": _Spec(dtype=tf.bool),
    }
    PACKING_FEATURE_DTYPES: Mapping[str, tf.dtypes.DType] = {}

    def __init__(self, pack: bool = False, use_custom_packing_ops: bool = False) -> None:
        """Takes the two arguments that t5x passes.

        Args:
          pack: must be False.
          use_custom_packing_ops: must be False.

        Raises:
          ValueError: packing was asked for.
        """
        if pack or use_custom_packing_ops:
            raise ValueError(
                "utils.DatasetConfig.pack: images cannot be packed; set it to False (and "
                "use_custom_packing_ops too)"
            )
        # Lengths need no check: padding cuts what is too long, and keeps the end of a source.
        super().__init__(pack=False, apply_length_check=False)

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Converts a data set.

        Args:
          ds: unpadded features of an OFA task.
          task_feature_lengths: "inputs", "targets" and "image".

        Returns:
          Unbatched rows with the keys of `MODEL_FEATURES`.

        Raises:
          ValueError: a data set that is not of OFA tasks.
        """
        if missing := set(self.TASK_FEATURES) - set(ds.element_spec):
            raise ValueError(
                f"the task or mixture has no feature {min(missing)!r}: tasks of others are mixed "
                "by ofa_jax.data.tasks.registration.add_mixture, not by seqio.MixtureRegistry.add"
            )
        return super().__call__(
            ds,
            {
                **task_feature_lengths,
                "image_mask": _FLAG,
                "image_hole": _HOLE,
                "code_mask": _FLAG,
                "decoder_inputs": task_feature_lengths["targets"],
                "loss_weights": task_feature_lengths["targets"],
            },
        )

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        lengths = dict(task_feature_lengths)
        shapes = {
            key: (size, size, 3) if self.MODEL_FEATURES[key].rank == 3 else (size,)
            for key, size in self.get_model_feature_lengths(lengths).items()
        }

        def pad(*values: np.ndarray) -> list[np.ndarray]:
            row = pad_row(dict(zip(FEATURE_KEYS, values)), lengths, 0)
            return [np.atleast_1d(row[key]) for key in shapes]

        def convert(features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            values = tf.numpy_function(
                pad,
                [features[key] for key in FEATURE_KEYS],
                [self.MODEL_FEATURES[key].dtype for key in shapes],
                stateful=False,
            )
            for value, shape in zip(values, shapes.values()):
                value.set_shape(shape)
            return dict(zip(shapes, values))

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        """First dimension of every model feature."""
        lengths = {
            "encoder_input_tokens": task_feature_lengths["inputs"],
            "encoder_images": task_feature_lengths["image"],
            "encoder_image_holes": _HOLE,
        }
        return {
            key: lengths.get(key, _FLAG if key in FLAGS else task_feature_lengths["targets"])
            for key in self.MODEL_FEATURES
        }


def model_inputs(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch as the model reads it, whichever input it came from.

    Args:
      batch: arrays [b, ...]; flags bool[b] (grain) or bool[b, 1] (seqio).

    Returns:
      The batch with flags bool[b].
    """
    return {
        key: value.reshape(value.shape[0]) if key in FLAGS else value
        for key, value in batch.items()
    }

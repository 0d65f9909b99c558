"""Layout of the one vocabulary: specials, text, `<mask>`, image codes, box bins.

Everything that turns text, images or boxes into ids and back starts here. The layout is
numpy-only data, shared by the tokenizer, the tasks, the model configuration and the constraints
of decoding.

OFA-NOTE: SPEC 1.2. The official order of the first two ids is bos 0, pad 1. Inside ofa_jax they
are swapped, because seqio and t5x hard-wire 0 as padding. Rows 0 and 1 of the embedding are
exchanged on import and export, no other id moves.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from ofa_jax import schema

__all__ = [
    "BOS_ID",
    "CHINESE",
    "ENGLISH",
    "EOS_ID",
    "NUM_SPECIALS",
    "OFFICIAL_SPECIALS",
    "PAD_ID",
    "SPECIAL_SYMBOLS",
    "UNK_ID",
    "Ids",
    "VocabLayout",
    "swap_official_ids",
]

PAD_ID = 0
BOS_ID = 1
EOS_ID = 2
UNK_ID = 3
NUM_SPECIALS = 4

SPECIAL_SYMBOLS = ("<pad>", "<s>", "</s>", "<unk>")
# The same in the order of official ids.
OFFICIAL_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


Ids = Annotated[int, schema.Between(1, 1 << 24)]


def swap_official_ids(ids: np.ndarray) -> np.ndarray:
    """Converts official ids to internal ids, or internal to official: the map is its own inverse.

    Args:
      ids: int[...] token ids.

    Returns:
      int[...] of the same shape and dtype, with 0 and 1 exchanged.
    """
    ids = np.asarray(ids)
    return np.where((ids == 0) | (ids == 1), 1 - ids, ids).astype(ids.dtype)


@dataclasses.dataclass(frozen=True)
class VocabLayout:
    """Where each kind of token lives among the ids (SPEC 1.2).

    Order: 4 specials, `num_text` text tokens, `<mask>`, `num_codes` image codes, `num_bins` box
    bins. The embedding matrix has `padded_size` rows, so that it divides over a mesh; the rows
    from `size` on are never a target and their logits are masked.

    Attributes:
      num_text: text tokens (50,260 in English, 21,128 in Chinese).
      num_codes: image codes of the image tokenizer.
      num_bins: box bins per axis.
      max_image_size: pixels that the last bin stands for. Bins are absolute pixels of the model
        input, not fractions of the image (SPEC 4.5).
      pad_multiple: `padded_size` is a multiple of this.
    """

    num_text: Ids = 50260
    num_codes: Annotated[int, schema.Between(0, 1 << 24)] = 8192
    num_bins: Ids = 1000
    max_image_size: Annotated[int, schema.Between(1, 1 << 20)] = 512
    pad_multiple: Annotated[int, schema.Between(1, 1 << 20)] = 128

    def __post_init__(self) -> None:
        schema.check(self, "VocabLayout")

    @property
    def mask_id(self) -> int:
        """Id of `<mask>`."""
        return NUM_SPECIALS + self.num_text

    @property
    def code_start(self) -> int:
        """Id of `<code_0>`."""
        return self.mask_id + 1

    @property
    def bin_start(self) -> int:
        """Id of `<bin_0>`."""
        return self.code_start + self.num_codes

    @property
    def size(self) -> int:
        """Number of real ids (59,457 in English, 30,325 in Chinese)."""
        return self.bin_start + self.num_bins

    @property
    def padded_size(self) -> int:
        """Rows of the embedding matrix: `size` rounded up to a multiple of `pad_multiple`."""
        return -(-self.size // self.pad_multiple) * self.pad_multiple

    def coordinates_to_bins(self, coordinates: np.ndarray) -> np.ndarray:
        """Quantizes pixel coordinates of the model input (SPEC 4.5).

        OFA-NOTE: SPEC 4.5. Coordinates outside of what bins cover get the first or last bin; the
        official code says `<unk>` there.

        Args:
          coordinates: float[...] pixels in the resized model input.

        Returns:
          int32[...] bins in [0, num_bins): round half to even of v / max_image_size * (bins - 1),
          computed in float32 as the official code does.
        """
        scaled = np.asarray(coordinates, np.float32) / np.float32(self.max_image_size)
        bins = np.rint(scaled * np.float32(self.num_bins - 1))
        return np.clip(bins, 0, self.num_bins - 1).astype(np.int32)

    def bins_to_coordinates(self, bins: np.ndarray) -> np.ndarray:
        """Inverse of `coordinates_to_bins`, up to rounding.

        Args:
          bins: int[...] in [0, num_bins).

        Returns:
          float32[...] pixels of the model input.
        """
        return np.asarray(bins, np.float32) / (self.num_bins - 1) * self.max_image_size

    def is_bin(self, ids: np.ndarray) -> np.ndarray:
        """bool[...]: which ids are box bins."""
        ids = np.asarray(ids)
        return (ids >= self.bin_start) & (ids < self.size)

    def is_code(self, ids: np.ndarray) -> np.ndarray:
        """bool[...]: which ids are image codes."""
        ids = np.asarray(ids)
        return (ids >= self.code_start) & (ids < self.bin_start)


ENGLISH = VocabLayout()
CHINESE = VocabLayout(num_text=21128)

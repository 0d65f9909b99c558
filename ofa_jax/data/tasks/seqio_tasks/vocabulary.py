"""The run's tokenizer as a seqio vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import seqio
import tensorflow as tf

from ofa_jax import vocab
from ofa_jax.text.tokenizer import Tokenizer


class SeqioVocabulary(seqio.Vocabulary):
    """The run's tokenizer as a seqio vocabulary: pad 0, eos 2, unk 3; loaded on first use.

    Two are equal where they are the same call, or else where their tokenizers have the same
    content; that is looked at only then, so that tasks can be declared without their files.
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer]):
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int:
        return vocab.BOS_ID

    @property
    def eos_id(self) -> int:
        return vocab.EOS_ID

    @property
    def unk_id(self) -> int:
        return vocab.UNK_ID

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer().layout.size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer().encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer().decode(np.asarray(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:
            # bytes from a graph, an array of rank 0 when called eagerly
            return np.array(self._encode(np.asarray(text).item().decode("utf-8")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            flat = rows.reshape(-1, rows.shape[-1])
            texts = [self._decode(cast(Sequence[int], row)).encode("utf-8") for row in flat]
            return np.array(texts, object).reshape(rows.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioVocabulary):
            return False
        if _call(self.tokenizer) == _call(other.tokenizer):
            return True
        return self.tokenizer().digest == other.tokenizer().digest

    def __hash__(self) -> int:
        # A hash by content would read the files of tasks that nobody uses.
        return hash(SeqioVocabulary)

    def __repr__(self) -> str:
        function, arguments, keywords = _call(self.tokenizer)
        named = [f"{key}={value!r}" for key, value in keywords.items()]
        name = getattr(function, "__name__", repr(function))
        return f"{name}({', '.join([*map(repr, arguments), *named])})"


def _call(tokenizer: Callable[[], Tokenizer]) -> tuple[object, tuple, dict[str, object]]:
    """Function and arguments of a tokenizer's name: two `functools.partial` are never equal."""
    if isinstance(tokenizer, functools.partial):
        return tokenizer.func, tokenizer.args, tokenizer.keywords
    return tokenizer, (), {}

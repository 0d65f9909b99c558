"""Puts OFA tasks and mixtures into the seqio registry, the only declaration of either.

`add_task` wraps an `OFATask` as a seqio Task whose whole chain runs in one stateless
`tf.numpy_function`, so stock seqio and t5x input, evaluation and caching work; the grain executor
(`ofa_jax.data.pipeline`) takes the `OFATask` itself back out of the registry with `lookup`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import seqio
import tensorflow as tf

from ofa_jax.data.answering import FREE_ANSWER, Answering
from ofa_jax.data.features import cut
from ofa_jax.data.instruction import Instruction
from ofa_jax.data.task import OFATask, Source, Step
from ofa_jax.text.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")

FEATURE_KEYS = (
    "inputs",
    "targets",
    "decoder_inputs",
    "image",
    "image_mask",
    "image_hole",
    "code_mask",
    "loss_weights",
)
_DTYPES = {
    "inputs": tf.int32,
    "targets": tf.int32,
    "decoder_inputs": tf.int32,
    "image": tf.uint8,
    "image_mask": tf.bool,
    "image_hole": tf.int32,
    "code_mask": tf.bool,
    "loss_weights": tf.float32,
}
_RANKS = {"image": 3}


class SeqioVocabulary(seqio.Vocabulary):
    """The run's tokenizer as a seqio vocabulary: pad 0, eos 2, unk 3; loaded on first use."""

    def __init__(self, tokenizer: Callable[[], Tokenizer]):
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int:
        return 1

    @property
    def eos_id(self) -> int:
        return 2

    @property
    def unk_id(self) -> int:
        return 3

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
        return isinstance(other, SeqioVocabulary) and self.tokenizer == other.tokenizer

    def __hash__(self) -> int:
        return hash(self.tokenizer)


class RecordSource(seqio.DataSource):
    """seqio's view of a random-access source: a data set of record numbers.

    The records themselves are read inside the numpy function of `_chain`, so shuffling computes
    numbers, moves no images, and iterator checkpoints stay small.
    """

    def __init__(self, task: OFATask, splits: Sequence[str]):
        self.task = task
        super().__init__(splits=splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    @property
    def performs_internal_shuffling(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The places of one epoch: {"place", "count", "shard", "shards", "shuffle", "split"}.

        `ordered` makes record numbers of them after seqio has repeated the epochs, so that each
        epoch has an order of its own.
        """
        del seed, sequence_length, use_cached, num_epochs
        size = len(self.task.source.open(split))
        shard, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        count = max(-(-(size - shard) // shards), 0)
        numbers = {"count": count, "shard": shard, "shards": shards}
        fixed = {key: tf.constant(number, tf.int64) for key, number in numbers.items()}
        fixed |= {"shuffle": tf.constant(shuffle), "split": tf.constant(split)}
        return tf.data.Dataset.range(count).map(lambda place: {"place": place, **fixed})

    def num_input_examples(self, split: str) -> int:
        return len(self.task.source.open(split))


@seqio.map_over_dataset(num_seeds=1)
def _with_seed(element: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
    return {**element, "seed": tf.stack(seed)}


def ordered(places: tf.data.Dataset) -> tf.data.Dataset:
    """Record numbers in the order of each epoch.

    Numbers are permuted by a formula, without a buffer, so the iterator of billions of records is
    as quick to start and to save as that of ten. All that it remembers is the seed of the epoch.
    (TensorFlow's own way to shuffle epochs differently, `rerandomize_each_iteration`, loses its
    place when an iterator is restored.)

    Args:
      places: of `RecordSource`, repeated or not.

    Returns:
      {"index": int64[], "split": string[]}, a shard's share of the records once per epoch.
    """

    def step(
        epoch_seed: tf.Tensor, element: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        place = element["place"]
        epoch_seed = tf.where(place == 0, element["seed"], epoch_seed)
        shuffled = tf.random.experimental.index_shuffle(place, epoch_seed, element["count"] - 1)
        number = tf.where(element["shuffle"], shuffled, place)
        index = number * element["shards"] + element["shard"]
        return epoch_seed, {"index": index, "split": element["split"]}

    return _with_seed(places).scan(tf.zeros(2, tf.int64), step)


@functools.lru_cache(maxsize=64)
def _open(source: Source, split: str) -> Any:
    return source.open(split)


def _chain(task: OFATask) -> Callable[..., tf.data.Dataset]:
    @seqio.map_over_dataset(num_seeds=1)
    def preprocess(
        element: Mapping[str, tf.Tensor], seed: tf.Tensor, sequence_length: Mapping[str, int]
    ) -> dict[str, tf.Tensor]:
        def read(index: np.ndarray, split: bytes, example_seed: np.ndarray) -> list[np.ndarray]:
            name = split.decode()
            features = task.read(
                _open(task.source, name),
                int(index),
                sequence_length,
                seed=int(example_seed.astype(np.uint32)[0]),
                train=name == "train",
            )
            # seqio would cut a long source behind its eos.
            features = cut(features, sequence_length)
            return [features[key] for key in FEATURE_KEYS]

        values = tf.numpy_function(
            read,
            [element["index"], element["split"], seed],
            [_DTYPES[key] for key in FEATURE_KEYS],
            stateful=False,
        )
        size = sequence_length["image"]
        shapes = {"image": [size, size, 3], "image_mask": [1], "image_hole": [4], "code_mask": [1]}
        for key, value in zip(FEATURE_KEYS, values):
            value.set_shape(shapes.get(key, [None]))
        return dict(zip(FEATURE_KEYS, values))

    def preprocessor(
        dataset: tf.data.Dataset, sequence_length: Mapping[str, int]
    ) -> tf.data.Dataset:
        return preprocess(ordered(dataset), sequence_length=sequence_length)

    return preprocessor


def _output_features(tokenizer: Callable[[], Tokenizer]) -> dict[str, seqio.Feature]:
    vocabulary = SeqioVocabulary(tokenizer)
    features: dict[str, seqio.Feature] = {}
    for key in FEATURE_KEYS:
        tokens = key in ("inputs", "targets", "decoder_inputs")
        features[key] = seqio.Feature(
            vocabulary=vocabulary if tokens else seqio.PassThroughVocabulary(1),
            add_eos=False,
            dtype=_DTYPES[key],
            rank=_RANKS.get(key, 1),
        )
    return features


def add_task(
    name: str,
    instruction: str | Sequence[str],
    *,
    family: str,
    source: Source,
    tokenizer: Callable[[], Tokenizer],
    prepare: Sequence[Step] = (),
    eval_prepare: Sequence[Step] | None = None,
    scorer: str = "exact_match",
    loss_weight: float = 1.0,
    splits: Sequence[str] = SPLITS,
    answering: Answering = FREE_ANSWER,
) -> OFATask:
    """Declares a task and registers it with seqio.

    Args:
      name: registered name.
      instruction: a line of the instruction language, or several wordings of it.
      family: name under which results are reported.
      source: where the examples come from.
      tokenizer: cached module-level function that returns the tokenizer.
      prepare: steps of training, see `OFATask.prepare`.
      eval_prepare: steps of evaluation; None means `prepare`.
      scorer: name in `ofa_jax.evaluation.scorers`.
      loss_weight: weight of each target token.
      splits: names that `source.open` knows.
      answering: decoder prompt, closed answer set, decoding; see `Answering`.

    Returns:
      The task.

    Raises:
      InstructionError: the instruction does not parse.
      ValueError: the name is taken.
    """
    lines = [instruction] if isinstance(instruction, str) else list(instruction)
    task = OFATask(
        name=name,
        family=family,
        instructions=tuple(Instruction.parse(line) for line in lines),
        source=source,
        tokenizer=tokenizer,
        prepare=tuple(prepare),
        eval_prepare=None if eval_prepare is None else tuple(eval_prepare),
        scorer=scorer,
        loss_weight=loss_weight,
        answering=answering,
    )
    seqio.TaskRegistry.add(
        name,
        source=RecordSource(task, splits),
        preprocessors=[_chain(task)],
        output_features=_output_features(tokenizer),
        metric_fns=[],
        shuffle_buffer_size=None,  # record numbers are shuffled, see `ordered`
    )
    return task


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture of tasks by rate; rates need not sum to one.

    Raises:
      ValueError: the name is taken, or a task is unknown.
    """
    seqio.MixtureRegistry.add(name, list(rates.items()))


def import_modules(names: tuple[str, ...], *, setting: str = "MIXTURE_OR_TASK_MODULE") -> None:
    """Imports the modules that register tasks and mixtures.

    Args:
      names: of the modules, from the user; never from a file that someone else may have made.
      setting: what the error says to change.

    Raises:
      ValueError: no such module.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise ValueError(
                    f"{setting}: no module {name!r}; run from the checkout, or install it with "
                    "`pip install -e .`"
                ) from error
            raise


def lookup(name: str, *, setting: str = "MIXTURE_OR_TASK_NAME") -> list[tuple[OFATask, float]]:
    """The OFA tasks behind a registered task or mixture, with their rates.

    Args:
      name: name of a task (rate 1) or of a mixture.
      setting: what the error says to change.

    Returns:
      Tasks of positive rate, sorted by name; `task_ids` of batches follow this order.

    Raises:
      ValueError: an unknown name (the message lists the nearest), or no task of positive rate.
    """
    registered = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if name not in registered:
        near = difflib.get_close_matches(name, sorted(registered), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{setting}: no task or mixture named {name!r}{hint}")
    mixture = seqio.get_mixture_or_task(name)
    if isinstance(mixture, seqio.Task):
        return [(cast(Any, mixture.source).task, 1.0)]
    tasks = [(cast(Any, task.source).task, float(mixture.get_rate(task))) for task in mixture.tasks]
    positive = [(task, rate) for task, rate in tasks if rate > 0]
    if not positive:
        raise ValueError(
            f"mixture {name!r}: every rate is zero ({', '.join(task.name for task, _ in tasks)}); "
            "give at least one task a positive rate"
        )
    return positive

"""An OFA task as a seqio Task: stock seqio and t5x read it, evaluate it and cache it.

A data set begins with record numbers. `_encoded` turns them into features in one stateless
`tf.numpy_function`, so shuffling computes numbers, moves no images, and iterator checkpoints stay
small. In a cache of `seqio_cache_tasks` the records themselves take the place of their numbers.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from ofa_jax.data.sources.array_record import decode_example, encode_example
from ofa_jax.data.sources.example import Example, Records, Source
from ofa_jax.data.tasks.features import cut, identifier, without_pixels
from ofa_jax.data.tasks.seqio_tasks.vocabulary import SeqioVocabulary
from ofa_jax.data.tasks.task import OFATask

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
# Key of the seed that evaluation examples are drawn with.
_SEED = "evaluation_seed"
# Keys of what evaluation may ask of an example besides its features: its name, and its fields
# without images as `encode_example` writes them ("" in training).
EXAMPLE_ID, EXAMPLE = "example_id", "example"
# Records of a shard that one worker of the cache reads, and the most such shards.
_CACHED_RECORDS, _CACHED_SHARDS = 1024, 64
# Examples among which a cache is shuffled, beyond the order of its files.
_CACHE_SHUFFLE = 256


class RecordSource(seqio.DataSource):
    """seqio's view of a random-access source: a data set of record numbers."""

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
        shards = math.ceil(self.num_input_examples(split) / _CACHED_RECORDS)
        return [f"{split}-{index}" for index in range(max(min(shards, _CACHED_SHARDS), 1))]

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
      {"index": int64[], "split": string[]}, a shard's share of the records once per epoch, and
      whatever else the places say.
    """

    def step(
        epoch_seed: tf.Tensor, element: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        place = element["place"]
        epoch_seed = tf.where(place == 0, element["seed"], epoch_seed)
        shuffled = tf.random.experimental.index_shuffle(place, epoch_seed, element["count"] - 1)
        number = tf.where(element["shuffle"], shuffled, place)
        found = {
            "index": number * element["shards"] + element["shard"],
            "split": element["split"],
        }
        return epoch_seed, found | {key: element[key] for key in (_SEED,) if key in element}

    return _with_seed(places).scan(tf.zeros(2, tf.int64), step)


@functools.lru_cache(maxsize=64)
def _open(source: Source, split: str) -> Records:
    return source.open(split)


def _stored(task: OFATask) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """What goes into a cache: whole records, before anything is drawn."""

    def store(index: np.ndarray, split: bytes) -> bytes:
        return encode_example(_open(task.source, split.decode())[int(index)])

    def record(element: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        content = tf.numpy_function(
            store, [element["index"], element["split"]], tf.string, stateful=False
        )
        content.set_shape([])
        return {"index": element["index"], "split": element["split"], "record": content}

    def preprocessor(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return ordered(dataset).map(record)

    return preprocessor


def _encoded(task: OFATask) -> Callable[..., tf.data.Dataset]:
    """From record numbers, or records of a cache, to features."""

    def read(
        content: bytes,
        index: np.ndarray,
        split: bytes,
        seed: np.ndarray,
        evaluation_seed: np.ndarray,
        sequence_length: Mapping[str, int],
    ) -> list[bytes | np.ndarray]:
        name = split.decode()
        train = name == "train"
        records: Any = {int(index): decode_example(content)} if content else None
        prepared: list[Example] = []
        features = task.read(
            _open(task.source, name) if records is None else records,
            int(index),
            sequence_length,
            # An evaluation asks the same of an example whatever its place in the stream.
            seed=int(seed.astype(np.uint32)[0]) if train else int(evaluation_seed),
            train=train,
            prepared=prepared,
        )
        # seqio would cut a long source behind its eos.
        features = cut(features, sequence_length)
        truth = b"" if train else encode_example(without_pixels(prepared[0]))
        return [
            *(features[key] for key in FEATURE_KEYS),
            identifier(prepared[0], int(index)).encode(),
            truth,
        ]

    @seqio.map_over_dataset(num_seeds=1)
    def preprocess(
        element: Mapping[str, tf.Tensor], seed: tf.Tensor, sequence_length: Mapping[str, int]
    ) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(
            functools.partial(read, sequence_length=sequence_length),
            [
                element.get("record", tf.constant("")),
                element["index"],
                element["split"],
                seed,
                element.get(_SEED, tf.constant(0, tf.int64)),
            ],
            [*(_DTYPES[key] for key in FEATURE_KEYS), tf.string, tf.string],
            stateful=False,
        )
        size = sequence_length["image"]
        shapes = {"image": [size, size, 3], "image_mask": [1], "image_hole": [4], "code_mask": [1]}
        shapes |= {EXAMPLE_ID: [], EXAMPLE: []}
        found = dict(zip((*FEATURE_KEYS, EXAMPLE_ID, EXAMPLE), values))
        for key, value in found.items():
            value.set_shape(shapes.get(key, [None]))
        return found

    def preprocessor(
        dataset: tf.data.Dataset, sequence_length: Mapping[str, int]
    ) -> tf.data.Dataset:
        if "record" not in dataset.element_spec:
            dataset = ordered(dataset)
        return preprocess(dataset, sequence_length=sequence_length)

    return preprocessor


class OFASeqioTask(seqio.Task):
    """A Task whose cache holds records, and which without one reads by number.

    Examples of other splits than "train" are drawn by the seed that `get_dataset` is given and by
    their number alone, 0 by default: as the evaluation of ofa_jax draws them.
    """

    def get_dataset(
        self,
        sequence_length: Mapping[str, int] | None = None,
        split: str = "train",
        use_cached: bool = False,
        *arguments: Any,
        **options: Any,
    ) -> tf.data.Dataset:
        """See `seqio.Task.get_dataset`."""
        whole = (sequence_length, split, use_cached, *arguments)
        if use_cached or not self.supports_caching:
            return super().get_dataset(*whole, **options)
        return self._uncached.get_dataset(*whole, **options)

    @functools.cached_property
    def _uncached(self) -> OFASeqioTask:
        return OFASeqioTask(
            name=self.name,
            source=self.source,
            output_features=self.output_features,
            preprocessors=self.preprocessors[-1:],
            shuffle_buffer_size=None,  # record numbers are shuffled, see `ordered`
        )

    def preprocess_postcache(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None,
        seed: int | None = None,
    ) -> tf.data.Dataset:
        """See `seqio.Task.preprocess_postcache`."""
        drawn_by = tf.constant(seed or 0, tf.int64)
        seeded = dataset.map(lambda element: {**element, _SEED: drawn_by})
        return super().preprocess_postcache(seeded, sequence_length, seed)


def _output_features(task: OFATask) -> dict[str, seqio.Feature]:
    vocabulary = SeqioVocabulary(task.tokenizer)
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


def _scoring(task: OFATask) -> tuple[Callable[..., object], Callable[..., dict[str, float]]]:
    """seqio's postprocessor and metric function, which score as the task's scorer does."""

    def module() -> ModuleType:
        # By name, as tasks name their scorer: scores are made above the data.
        return importlib.import_module("ofa_jax.evaluation.seqio_scores")

    def postprocess(text: str, example: Example, is_target: bool) -> object:
        if is_target:
            return module().truth(task, decode_example(bytes(example[EXAMPLE])), text)
        return module().guess(task, text)

    def score(targets: Sequence[Example], predictions: Sequence[object]) -> dict[str, float]:
        return module().scores(task, targets, predictions)

    return postprocess, score


def seqio_arguments(
    task: OFATask,
    splits: Sequence[str],
    *,
    postprocess_fn: Callable[..., object] | None = None,
    metric_fns: Sequence[Callable[..., object]] = (),
) -> dict[str, Any]:
    """What a seqio Task is made of.

    Args:
      splits: names that its source knows.
      postprocess_fn: in the place of the task's own, with `metric_fns`.
      metric_fns: in the place of the task's own scorer.

    Returns:
      Keyword arguments of `OFASeqioTask`, but for the name.
    """
    postprocess, score = _scoring(task)
    return {
        "source": RecordSource(task, splits),
        "preprocessors": [_stored(task), seqio.CacheDatasetPlaceholder(), _encoded(task)],
        "output_features": _output_features(task),
        "postprocess_fn": postprocess_fn if metric_fns else postprocess,
        "metric_fns": list(metric_fns) or [score],
        "shuffle_buffer_size": _CACHE_SHUFFLE,
    }

"""The tf.data executor: the same examples as the numpy chain, iterators that can be saved."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.data.tasks.features import cut, pad_row
from ofa_jax.data.tasks.registration import add_mixture, add_task, lookup
from ofa_jax.data.tasks.seqio_tasks.task import FEATURE_KEYS, ordered
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.vocab import BOS_ID, EOS_ID
from tasks import instructions
from tests.data.batches.numbered import LENGTHS, SIZE, Flicker, Numbered, small_tokenizer

MIXTURE = "numbered_mixture"
NOISED = "numbered_noised"
SHORT = LENGTHS | {"inputs": 6, "targets": 2}


@pytest.fixture(scope="module", autouse=True)
def registered():
    if MIXTURE in seqio.MixtureRegistry.names():
        return
    lines = {
        "numbered_captions": instructions.CAPTIONING,
        "numbered_texts": instructions.TEXT_INFILLING,
    }
    for size, (name, line) in zip((11, 6), lines.items()):
        add_task(
            name,
            line,
            family=name,
            source=Numbered(size),
            tokenizer=small_tokenizer,
            prepare=(Flicker(),) if line == instructions.CAPTIONING else (),
        )
    add_mixture(MIXTURE, {"numbered_captions": 2.0, "numbered_texts": 1.0})
    add_task(
        NOISED,
        instructions.CAPTIONING,
        family=NOISED,
        source=Numbered(8),
        tokenizer=small_tokenizer,
        answering=Answering(decoder_input_noise=0.5),
    )


def dataset(name=MIXTURE, lengths=LENGTHS, **options):
    settings = {
        "split": "train",
        "shuffle": True,
        "seed": 7,
        "num_epochs": None,
    }
    return seqio.get_mixture_or_task(name).get_dataset(lengths, **(settings | options))


def assert_equal(element, other):
    assert element.keys() == other.keys()
    for key in element:
        np.testing.assert_array_equal(element[key], other[key], err_msg=key)


@pytest.mark.parametrize("taken", [0, 1, 5, 30])
def test_an_iterator_restored_at_any_example_goes_on_with_the_same_ones(taken, tmp_path):
    """Thirty examples are several epochs of either task."""
    mixed = dataset().prefetch(2)
    iterator = iter(mixed)
    for _ in range(taken):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "iterator"))
    expected = [next(iterator) for _ in range(15)]
    again = iter(dataset().prefetch(2))
    tf.train.Checkpoint(iterator=again).restore(saved).assert_consumed()
    for element in expected:
        assert_equal(next(again), element)


@pytest.mark.parametrize(
    ("name", "lengths"), [(MIXTURE, LENGTHS), (NOISED, LENGTHS), ("numbered_captions", SHORT)]
)
def test_examples_equal_those_that_grain_reads_of_the_same_record_and_seed(
    monkeypatch, name, lengths
):
    calls = {}
    original = OFATask.read

    def key_of(features):
        return b"".join(features[key].tobytes() for key in ("image", "inputs", "decoder_inputs"))

    def read(self, records, index, lengths, **options):
        features = original(self, records, index, lengths, **options)
        calls[key_of(cut(features, lengths))] = (self, index, options)
        return features

    monkeypatch.setattr(OFATask, "read", read)
    found = list(dataset(name, lengths).take(20).as_numpy_iterator())
    tasks = tuple(task for task, _ in lookup(name))
    noised = 0
    for element in found:
        task, index, options = calls[key_of(element)]
        # What a worker of the grain executor does with this record and this seed.
        pipeline = MixturePipeline(
            tasks=tasks, rates=(1.0,) * len(tasks), lengths=lengths, batch_size=1
        )
        features = original(task, task.source.open(pipeline.split), index, lengths, **options)
        assert_equal({key: element[key] for key in FEATURE_KEYS}, cut(features, lengths))
        row = pad_row(features, lengths, tasks.index(task))
        assert_equal(pad_row(element, lengths, tasks.index(task)), row)
        assert row["encoder_images"].shape == (SIZE, SIZE, 3)
        assert row["encoder_input_tokens"][len(element["inputs"]) - 1] == EOS_ID
        assert row["decoder_input_tokens"][0] == BOS_ID
        noised += (element["decoder_inputs"][1:] != element["targets"][:-1]).any()
    assert (noised > 5) == (name == NOISED)


def numbers(name="numbered_captions", *, seed=None, epochs=1, **options):
    """Record numbers that seqio would read."""
    places = seqio.get_mixture_or_task(name).source.get_dataset("train", **options)
    with seqio.utils.map_seed_manager(seed):
        found = ordered(places.repeat(epochs))
    return [int(element["index"]) for element in found]


def test_every_epoch_has_all_records_in_an_order_of_its_own():
    indices = numbers(shuffle=True, seed=1, epochs=4)
    epochs = [tuple(indices[start : start + 11]) for start in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(epochs)) == 4
    assert numbers(shuffle=True, seed=1, epochs=4) == indices
    assert numbers(shuffle=True, seed=1) == list(epochs[0])
    assert numbers(shuffle=True, seed=1) != numbers(shuffle=True, seed=2)
    assert numbers(shuffle=False, epochs=2) == [*range(11), *range(11)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("shards", [2, 4, 13])
def test_shards_together_are_all_records_whatever_their_seeds(shards, shuffle):
    parts = [
        numbers(shuffle=shuffle, seed=None, shard_info=seqio.ShardInfo(index, shards))
        for index in range(shards)
    ]
    assert sorted(number for part in parts for number in part) == list(range(11))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Endless:
    """As many records as a large data set has."""

    def open(self, split):
        return self

    def __len__(self):
        return 10**10


def test_a_large_data_set_starts_at_once_and_its_iterator_is_small(tmp_path):
    task = seqio.get_mixture_or_task("numbered_captions").source.task
    source = type(seqio.get_mixture_or_task("numbered_captions").source)(
        type(task)(**(vars(task) | {"source": Endless()})), ["train"]
    )
    iterator = iter(ordered(source.get_dataset("train", shuffle=True)))
    first = [int(next(iterator)["index"]) for _ in range(5)]
    assert len(set(first)) == 5
    assert max(first) > 10**8
    tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "iterator"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000

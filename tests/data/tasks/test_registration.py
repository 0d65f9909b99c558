"""The seqio registry: the same features as the numpy chain, mixtures, helpful errors."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

import mixtures.pretrain
import mixtures.scenes
from mixtures import rates
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks.registration import add_mixture, add_task, lookup
from ofa_jax.data.tasks.seqio_tasks.task import EXAMPLE, EXAMPLE_ID, FEATURE_KEYS, ordered
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.scenes.source import ScenesSplits
from tasks import instructions

LENGTHS = {"inputs": 28, "targets": 20, "image": 32}
SCENES = (*rates.FAMILIES, "grounded_vqa")


def reads(monkeypatch):
    """Arguments of the calls of `OFATask.read` made by seqio's numpy function."""
    calls = []
    original = OFATask.read

    def read(self, records, index, lengths, **options):
        calls.append((self, records, index, dict(lengths), options))
        return original(self, records, index, lengths, **options)

    monkeypatch.setattr(OFATask, "read", read)
    return calls, original


def dataset(name, **options):
    settings = {"split": "train", "shuffle": False, "seed": 5}
    return seqio.get_mixture_or_task(name).get_dataset(LENGTHS, **(settings | options))


@pytest.mark.parametrize("family", SCENES)
def test_seqio_features_equal_the_numpy_chain(family, monkeypatch):
    calls, read = reads(monkeypatch)
    found = list(dataset(f"scenes_{family}").take(3).as_numpy_iterator())
    # tf.data reads ahead; the calls of the elements taken come first, in order of the index.
    by_index = {call[2]: call for call in calls}
    for number, features in enumerate(found):
        task, records, index, lengths, options = by_index[number]
        assert task.name == f"scenes_{family}"
        assert options["train"]
        expected = read(task, records, index, lengths, **options)
        assert expected.keys() == set(FEATURE_KEYS) == features.keys() - {EXAMPLE_ID, EXAMPLE}
        for key in FEATURE_KEYS:
            assert features[key].dtype == expected[key].dtype, key
            np.testing.assert_array_equal(features[key], expected[key], err_msg=key)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_validation_has_its_own_preparation_and_one_seed(split, monkeypatch):
    """An example of training draws anew each time, one of evaluation by its number alone."""
    calls, _ = reads(monkeypatch)
    list(dataset("scenes_vqa", split=split).take(4))
    assert {call[4]["train"] for call in calls} == {split == "train"}
    seeds = {call[2]: call[4]["seed"] for call in calls}
    assert len(seeds) >= 4
    assert len(set(seeds.values())) == (len(seeds) if split == "train" else 1)


def test_epochs_have_new_draws_and_shuffling_covers_all_records():
    source = ScenesSplits("tiny")
    records = len(source.open("validation"))
    task = seqio.get_mixture_or_task("scenes_text_infilling")
    places = task.source.get_dataset("validation", shuffle=True)
    indices = [int(element["index"]) for element in ordered(places)]
    assert sorted(indices) == list(range(records))
    assert indices != sorted(indices)
    shards = []
    for shard in range(3):
        info = seqio.ShardInfo(shard, 3)
        places = task.source.get_dataset("validation", shuffle=False, shard_info=info)
        shards.append({int(element["index"]) for element in ordered(places)})
    assert set.union(*shards) == set(range(records))
    assert sum(map(len, shards)) == records


def test_repeating_draws_anew():
    name = "scenes_one_record"
    if name not in seqio.TaskRegistry.names():
        add_task(
            name,
            instructions.TEXT_INFILLING,
            family="text_infilling",
            source=OneRecord(),
            tokenizer=lookup("scenes_vqa")[0][0].tokenizer,
        )
    rows = list(dataset(name, num_epochs=8).as_numpy_iterator())
    assert len(rows) == 8
    assert len({tuple(row["targets"].tolist()) for row in rows}) == 1
    assert len({tuple(row["inputs"].tolist()) for row in rows}) > 1


class OneRecord:
    def open(self, split):
        return [{"text": "a red circle is to the left of a blue square on a white background"}]


def test_element_spec_is_static_and_stateless():
    spec = dataset("scenes_detection").element_spec
    assert {key: (value.dtype, value.shape.as_list()) for key, value in spec.items()} == {
        "inputs": (tf.int32, [None]),
        "targets": (tf.int32, [None]),
        "decoder_inputs": (tf.int32, [None]),
        "image": (tf.uint8, [32, 32, 3]),
        "image_mask": (tf.bool, [1]),
        "image_hole": (tf.int32, [4]),
        "code_mask": (tf.bool, [1]),
        "loss_weights": (tf.float32, [None]),
        EXAMPLE_ID: (tf.string, []),
        EXAMPLE: (tf.string, []),
    }


def test_mixture_iterator_can_be_saved_in_the_middle(tmp_path):
    mixed = dataset("scenes_quickstart", num_epochs=None)
    iterator = iter(mixed)
    for _ in range(3):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "iterator"))
    expected = [next(iterator) for _ in range(3)]
    again = iter(mixed)
    tf.train.Checkpoint(iterator=again).restore(saved)
    for element in expected:
        other = next(again)
        for key in FEATURE_KEYS:
            np.testing.assert_array_equal(element[key], other[key])


def test_vocabulary_encodes_and_decodes_in_python_and_in_tensorflow():
    task = seqio.get_mixture_or_task("scenes_vqa")
    vocabulary = task.output_features["targets"].vocabulary
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == (
        0,
        1,
        2,
        3,
    )
    layout = lookup("scenes_vqa")[0][0].tokenizer().layout
    assert vocabulary.vocab_size == layout.size
    text = " a red circle <bin_3><bin_4>"
    ids = vocabulary.encode(text)
    assert ids[-2:] == [layout.bin_start + 3, layout.bin_start + 4]
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert vocabulary.decode([*ids, 2, *ids]) == " a red circle <bin_3> <bin_4>"
    batch = np.array([[*ids, 2, 9], [*ids[:2], 2, 0] + [0] * (len(ids) - 2)], np.int32)
    decoded = vocabulary.decode_tf(tf.constant(batch)).numpy().tolist()
    assert [line.decode() for line in decoded] == [vocabulary.decode(row.tolist()) for row in batch]
    assert vocabulary.decode_tf(tf.constant(batch[0])).numpy().decode() == vocabulary.decode(
        batch[0].tolist()
    )
    same = seqio.get_mixture_or_task("scenes_vqa").output_features["inputs"].vocabulary
    assert vocabulary == same
    assert hash(vocabulary) == hash(same)


# Looking tasks and mixtures up.


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match=r"mixture_or_task_name: .*'scenes_quikstart'") as error:
        lookup("scenes_quikstart")
    assert "did you mean scenes_quickstart" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"'zzzz'$"):
        lookup("zzzz")


def test_rates_of_zero_are_dropped_and_all_zero_is_an_error():
    if "scenes_some_zero" not in seqio.MixtureRegistry.names():
        add_mixture("scenes_some_zero", {"scenes_vqa": 0.0, "scenes_detection": 2.0})
        add_mixture("scenes_all_zero", {"scenes_vqa": 0.0, "scenes_detection": 0.0})
    assert [(task.name, rate) for task, rate in lookup("scenes_some_zero")] == [
        ("scenes_detection", 2.0)
    ]
    with pytest.raises(ValueError, match=r"'scenes_all_zero': .*zero") as error:
        lookup("scenes_all_zero")
    assert "scenes_detection, scenes_vqa" in str(error.value)


def test_a_single_task_can_be_looked_up():
    [(task, rate)] = lookup("scenes_captioning")
    assert (task.name, task.family, rate) == ("scenes_captioning", "captioning", 1.0)


def test_bad_declarations_are_refused():
    options = {
        "family": "vqa",
        "source": ScenesSplits("tiny"),
        "tokenizer": lookup("scenes_vqa")[0][0].tokenizer,
    }
    with pytest.raises(ValueError, match="scenes_vqa"):
        add_task("scenes_vqa", instructions.VQA, **options)
    with pytest.raises(InstructionError, match="has no '->'"):
        add_task("scenes_broken", "[IMAGE:image] what?", **options)
    assert "scenes_broken" not in seqio.TaskRegistry.names()
    with pytest.raises(ValueError, match="scenes_unknown"):
        add_mixture("scenes_mixture_of_unknown", {"scenes_unknown": 1.0})


def test_tasks_pickle_and_open_in_a_process_without_tensorflow_seqio_or_jax():
    task = lookup("scenes_image_infilling")[0][0]
    program = (
        "import pickle, sys\n"
        "task = pickle.load(sys.stdin.buffer)\n"
        "assert task.source.open('train')[3]['image'].shape == (32, 32, 3)\n"
        "print(sorted({'tensorflow', 'seqio', 'jax'} & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(task), capture_output=True, check=False
    )
    assert found.stdout.decode().strip() == "[]", found.stderr.decode()


# The declared mixtures.


def share(name, *families):
    tasks = lookup(name)
    total = sum(rate for _, rate in tasks)
    return sum(rate for task, rate in tasks if task.family in families) / total


@pytest.mark.parametrize(
    "name", ["ofa_pretrain", "ofa_pretrain_tsv", "scenes_pretrain", "scenes_base_pretrain"]
)
def test_official_sample_ratios(name):
    # SPEC 4.2: image-text 16, text infilling 2, image infilling 1, detection 1.
    image_text = [family for family in rates.FAMILIES if "infilling" not in family]
    image_text.remove("detection")
    assert share(name, *image_text) == pytest.approx(16 / 20)
    assert share(name, "text_infilling") == pytest.approx(2 / 20)
    assert share(name, "image_infilling") == pytest.approx(1 / 20)
    assert share(name, "detection") == pytest.approx(1 / 20)
    # Each row gives its own sample and one companion.
    assert share(name, "visual_grounding") == pytest.approx(share(name, "grounded_captioning"))
    assert share(name, "captioning", "vqa") == pytest.approx(share(name, "image_text_matching"))
    rows = 15.25 + 2.92 + 3.20
    assert share(name, "captioning") == pytest.approx(8 / 20 * 15.25 / rows)
    assert share(name, "vqa") == pytest.approx(8 / 20 * 2.92 / rows)


def test_matching_of_official_data_is_divided_as_its_rows():
    by_task = {task.name: rate for task, rate in lookup("ofa_pretrain_tsv")}
    ratio = by_task["ofa_image_text_matching"] / by_task["ofa_answer_matching"]
    assert ratio == pytest.approx(15.25 / 2.92)


@pytest.mark.parametrize("prefix", ["ofa", "ofa_tsv", "scenes", "scenes_small", "scenes_base"])
@pytest.mark.parametrize("family", rates.FAMILIES)
def test_leave_one_out_mixtures(prefix, family):
    whole = {"ofa": "ofa_pretrain", "ofa_tsv": "ofa_pretrain_tsv"}.get(
        prefix, f"{prefix}_quickstart"
    )
    left = lookup(f"{prefix}_without_{family}")
    assert {task.family for task, _ in left} == set(rates.FAMILIES) - {family}
    rest = {task.name: rate for task, rate in lookup(whole) if task.family != family}
    assert {task.name: rate for task, rate in left} == pytest.approx(rest)


def test_every_quickstart_trains_the_eight_tasks():
    for prefix in ("scenes", "scenes_small", "scenes_base"):
        found = lookup(f"{prefix}_quickstart")
        assert {task.family for task, _ in found} == set(rates.FAMILIES)
        assert {task.source.preset for task, _ in found} == {
            {"scenes": "tiny", "scenes_small": "small", "scenes_base": "base"}[prefix]
        }
    with pytest.raises(ValueError, match="no task family 'speech'"):
        rates.without(rates.official_rates(), "speech")
    for family in rates.FAMILIES:
        found = lookup(f"scenes_without_{family}")
        assert {task.family for task, _ in found} == set(rates.FAMILIES) - {family}
    assert mixtures.pretrain.FAMILIES == rates.FAMILIES

"""What seqio users do with tasks: mix them, those of others too, score them, cache them."""

import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

import mixtures.scenes  # noqa: F401  (registers the tasks)
import tasks.scenes_answers  # noqa: F401
from ofa_jax.data.batches.pipeline import MixturePipeline, evaluation_row
from ofa_jax.data.sources import text_pairs
from ofa_jax.data.tasks.registration import add_mixture, add_task, lookup
from ofa_jax.data.tasks.seqio_tasks.task import FEATURE_KEYS
from ofa_jax.data.tasks.seqio_tasks.vocabulary import SeqioVocabulary
from ofa_jax.scenes.tokenizers import scenes_tokenizer
from ofa_jax.text.tokenizer import load_tokenizer
from tasks.scenes import INSTRUCTIONS
from tests.data.batches.numbered import LENGTHS, Numbered, small_tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCENES = {"inputs": 28, "targets": 20, "image": 32}
SPLITS = ["train", "validation"]
tiny = functools.partial(scenes_tokenizer, "tiny", INSTRUCTIONS)


def mixed(name, parts):
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, [(part, 1.0) for part in parts])
    options = {"split": "train", "seed": 1, "num_epochs": None, "shuffle": True}
    mixture = seqio.get_mixture_or_task(name)
    found = mixture.get_dataset({"inputs": 28, "targets": 20, "image": 32}, **options)
    return list(found.take(12).as_numpy_iterator())


@pytest.mark.parametrize("other", ["scenes_vqa_closed", "documented_colours"])
def test_tasks_of_equal_vocabularies_are_mixed_by_seqio(other):
    if other == "documented_colours" and other not in seqio.TaskRegistry.names():
        add_task(
            other,
            " which one is it? [TEXT:caption] -> [TEXT:caption]",
            family=other,
            source=Numbered(6),
            tokenizer=functools.partial(scenes_tokenizer, "tiny", INSTRUCTIONS),
        )
    found = mixed(f"with_{other}", ["scenes_captioning", other])
    sources = {tiny().decode(element["inputs"]) for element in found}
    assert " what does the image describe?" in sources
    assert len(sources) > 1


def test_vocabularies_compare_by_content(tmp_path):
    tiny().save(tmp_path / "copy")
    copy = SeqioVocabulary(functools.partial(load_tokenizer, tmp_path / "copy"))
    named_again = SeqioVocabulary(functools.partial(scenes_tokenizer, "tiny", INSTRUCTIONS))
    first = SeqioVocabulary(tiny)
    assert first == copy == named_again
    assert hash(first) == hash(copy)
    assert first != SeqioVocabulary(functools.partial(scenes_tokenizer, "tiny", ()))
    assert first != SeqioVocabulary(small_tokenizer)
    assert first != seqio.ByteVocabulary()
    # Declaring and comparing the same call reads no file.
    absent = [SeqioVocabulary(functools.partial(load_tokenizer, "/nowhere")) for _ in range(2)]
    assert absent[0] == absent[1]
    assert len(set(absent)) == 1


def plain_task(name, kind="other ids"):
    """A task that knows nothing of ours: its own vocabulary, texts, or ids of our vocabulary."""
    texts = {
        "inputs": [f"shout {n}" for n in range(5)],
        "targets": [f"<bin_{n}>" for n in range(5)],
    }
    if name in seqio.TaskRegistry.names():
        return name
    vocabulary = seqio.ByteVocabulary() if kind == "other ids" else SeqioVocabulary(small_tokenizer)
    dtype = tf.string if kind == "texts" else tf.int32
    if kind == "texts":
        vocabulary = seqio.PassThroughVocabulary(1)
    steps = (
        [] if kind == "texts" else [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    )
    feature = seqio.Feature(vocabulary, dtype=dtype, rank=0 if kind == "texts" else 1)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(texts),
            splits=SPLITS,
        ),
        preprocessors=steps,
        output_features={"inputs": feature, "targets": feature},
    )
    return name


def numbered():
    name = "habits_captions"
    if name not in seqio.TaskRegistry.names():
        add_task(
            name,
            "[IMAGE:image] what is it? -> [TEXT:caption]",
            family=name,
            source=Numbered(5),
            tokenizer=small_tokenizer,
            splits=SPLITS,
            scorer="description",
        )
    return name


@pytest.mark.parametrize("kind", ["other ids", "texts", "our ids"])
def test_a_plain_seqio_task_is_mixed_under_both_executors(kind):
    plain = plain_task("plain_" + kind.replace(" ", "_"), kind)
    mixture = f"habits_{plain}"
    if mixture not in seqio.MixtureRegistry.names():
        add_mixture(mixture, {plain: 1.0, numbered(): 2.0})
    tokenizer = small_tokenizer()
    found = {task.name: (task, rate) for task, rate in lookup(mixture)}
    task, rate = found[plain]
    assert rate / found[numbered()][1] == 0.5
    pickle.loads(pickle.dumps(task))
    tasks = tuple(task for task, _ in found.values())
    pipeline = MixturePipeline(tasks=tasks, rates=(1.0, 2.0), lengths=LENGTHS, batch_size=6)
    batch = pipeline.batch(0)
    grain = {
        (tokenizer.decode(row), tokenizer.decode(target))
        for row, target, mask in zip(
            batch["encoder_input_tokens"],
            batch["decoder_target_tokens"],
            batch["encoder_image_masks"],
        )
        if not mask
    }
    options = {"split": "train", "seed": 1, "num_epochs": 1, "shuffle": True}
    dataset = seqio.get_mixture_or_task(mixture).get_dataset(LENGTHS, **options)
    stock = {
        (tokenizer.decode(element["inputs"]), tokenizer.decode(element["targets"]))
        for element in dataset.as_numpy_iterator()
        if not element["image_mask"][0]
    }
    assert grain
    assert stock
    space = "" if kind == "our ids" else " "
    targets = {tuple(pair[1].split("_")) for pair in grain | stock}
    assert {pair[0] for pair in grain | stock} <= {f"{space}shout {n}" for n in range(5)}
    assert {pair[0].strip() for pair in targets} == {"<bin"}
    # Texts of others cannot spell whole tokens, ids of ours are taken as they are.
    ids = next(iter(task.source.open("train")))
    width = len(task.read(task.source.open("train"), 0, LENGTHS, seed=0)["targets"])
    assert (width == 2) == (kind == "our ids"), ids


def test_plain_tasks_without_a_vocabulary_of_ours_are_refused_in_one_line():
    plain = plain_task("plain_alone")
    with pytest.raises(ValueError, match=r"add_task .*mixture") as error:
        add_mixture("habits_alone", {plain: 1.0})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="nothing says which vocabulary"):
        lookup(plain)
    seqio.TaskRegistry.add(
        "only_inputs",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=SPLITS),
        output_features={"inputs": seqio.Feature(seqio.ByteVocabulary())},
    )
    with pytest.raises(ValueError, match="no text or ids 'targets'"):
        add_mixture("habits_only_inputs", {"only_inputs": 1.0, numbered(): 1.0})
    # Ids of our own vocabulary say enough.
    ours = plain_task("plain_ours", "our ids")
    assert [task.name for task, _ in lookup(ours)] == [ours]


def test_text_pairs_are_read_once_and_not_without_end(monkeypatch):
    calls = []

    def read(split):
        calls.append(split)
        yield from ({"text": str(number), "answer": split} for number in range(3))

    source = text_pairs.TextPairs("pairs", read)
    assert source.open("train") is source.open("train")
    again = pickle.loads(pickle.dumps(source))
    assert again.open("train") == source.open("train")
    assert calls == ["train"]
    with pytest.raises(ValueError, match=r"'validation' .*read"):
        again.open("validation")
    monkeypatch.setattr(text_pairs, "MOST_PAIRS", 2)
    with pytest.raises(ValueError, match="more than 2 examples"):
        source.open("validation")


@pytest.mark.parametrize(
    ("name", "seed"), [("scenes_vqa", None), ("scenes_text_infilling", 3)], ids=["vqa", "seeded"]
)
def test_evaluation_draws_are_those_of_the_native_evaluation(name, seed):
    task = lookup(name)[0][0]
    records = task.source.open("validation")
    options = {"split": "validation", "shuffle": False, "seed": seed}
    dataset = seqio.get_mixture_or_task(name).get_dataset(SCENES, **options)
    for index, element in enumerate(dataset.take(12).as_numpy_iterator()):
        example, row = evaluation_row(task, records, index, SCENES, seed=seed or 0)
        size = len(element["inputs"])
        np.testing.assert_array_equal(element["inputs"], row["encoder_input_tokens"][:size])
        assert element["example_id"].decode() == example["image_id"]


class TextsOnly(seqio.EncDecFeatureConverter):
    """As a model without images reads our tasks."""

    def __call__(self, ds, task_feature_lengths):
        return super().__call__(
            ds, {key: task_feature_lengths[key] for key in ("inputs", "targets")}
        )


SCORED = {
    "vqa": "accuracy",
    "visual_grounding": "accuracy_at_0.5",
    "detection": "f1_at_0.5",
    "text_infilling": "exact_match",
}


def test_seqio_evaluates_by_the_scorer_of_the_task():
    names = [f"scenes_{family}" for family in SCORED]
    seqio.MixtureRegistry.add("habits_scored", [(name, 1.0) for name in names])
    evaluator = seqio.Evaluator(
        mixture_or_task_name="habits_scored",
        feature_converter=TextsOnly(pack=False),
        eval_split="validation",
        num_examples=8,
        sequence_length=SCENES,
    )

    def predict(dataset, model_feature_shapes=None):
        """Half of the answers are right, the others are empty."""
        targets = [row["decoder_target_tokens"] for _, row in dataset.as_numpy_iterator()]
        return [(n, ids if n % 2 else ids * 0 + 2) for n, ids in enumerate(targets)]

    future, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, score_fn=None, step=0)
    scores = future.result()
    found = {family: scores[f"scenes_{family}"][metric] for family, metric in SCORED.items()}
    assert found["vqa"] == found["visual_grounding"] == found["text_infilling"] == 0.5
    assert 0.3 < found["detection"] < 0.9


def test_a_cache_holds_records_and_reads_as_the_files_do():
    task = seqio.get_mixture_or_task("scenes_text_infilling")
    assert task.supports_caching
    places = task.source.get_dataset("validation", shuffle=False).take(6)
    records = task.preprocess_precache(places, seed=99)
    assert set(records.element_spec) == {"index", "split", "record"}
    cached = task.preprocess_postcache(records, sequence_length=SCENES, seed=3)
    live = task.get_dataset(SCENES, split="validation", shuffle=False, seed=3).take(6)
    for element, other in zip(cached.as_numpy_iterator(), live.as_numpy_iterator(), strict=True):
        assert element.keys() == other.keys() > set(FEATURE_KEYS)
        for key in element:
            np.testing.assert_array_equal(element[key], other[key], err_msg=key)


CACHED_TASK = """
from ofa_jax.data.tasks.registration import add_task
from tests.data.batches.numbered import Numbered, small_tokenizer

add_task(
    "few_to_cache",
    "[IMAGE:image] what is the complete text? [MASKED_TEXT:text] -> [TEXT:text]",
    family="few",
    source=Numbered(9),
    tokenizer=small_tokenizer,
    scorer="filled_text",
    splits=("train", "validation"{more}),
)
"""
READ = """
import sys, numpy as np, seqio, few_to_cache
seqio.add_global_cache_dirs([sys.argv[1]])
task = seqio.get_mixture_or_task("few_to_cache")
read = lambda **options: {
    element["example_id"]: element
    for element in task.get_dataset(
        {"inputs": 40, "targets": 12, "image": 8}, split="validation", seed=5, **options
    ).as_numpy_iterator()
}
live, cached = read(shuffle=False), read(use_cached=True, shuffle=True)
assert live.keys() == cached.keys() and len(live) == 9
for name, element in live.items():
    for key, value in element.items():
        np.testing.assert_array_equal(value, cached[name][key])
"""


@pytest.mark.slow
def test_the_cache_of_seqio_is_written_and_read(tmp_path):
    pytest.importorskip("apache_beam", reason="seqio_cache_tasks needs apache-beam ([prepare])")
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    }

    def run(*words):
        words = [sys.executable, *words]
        return subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, check=False, env=environment
        )

    def cache(directory):
        return run(
            *("-m", "seqio.scripts.cache_tasks_main", "--tasks=few_to_cache", "--min_shards=2"),
            *("--module_import=few_to_cache", f"--output_cache_dir={directory}"),
        )

    module = tmp_path / "few_to_cache.py"
    module.write_text(CACHED_TASK.format(more=""))
    done = cache(tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    info = json.loads((tmp_path / "cache/few_to_cache/info.train.json").read_text())
    assert set(info["features"]) == {"index", "split", "record"}
    read = run("-c", READ, str(tmp_path / "cache"))
    assert read.returncode == 0, read.stderr[-3000:]
    # A task whose files are not there ends with a status that says so.
    module.write_text(CACHED_TASK.format(more=', "test"'))
    failed = cache(tmp_path / "other")
    assert failed.returncode != 0
    assert "no split 'test'" in failed.stderr

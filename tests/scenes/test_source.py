"""The source: the flat example schema, pickling, the cache, the corpus."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from ofa_jax.scenes.presets import PRESETS, preset
from ofa_jax.scenes.source import ScenesSource, ScenesSplits, corpus


def _same(one, other) -> bool:
    return repr(one) == repr(other) and (one["image"] == other["image"]).all()


@pytest.mark.parametrize("name", list(PRESETS))
def test_example_schema(name):
    example = ScenesSource(name, "validation", 2)[3]
    pixels = preset(name).pixels
    count = len(example["scene"]["objects"])
    assert example["image"].shape == (pixels, pixels, 3)
    assert example["image"].dtype == np.uint8
    assert example["boxes"].shape == (count, 4)
    assert example["boxes"].dtype == np.float32
    assert len(example["labels"]) == len(example["region_captions"]) == count
    assert example["refexp_box_index"].dtype == np.int32
    assert len(example["refexps"]) == len(example["refexp_box_index"]) > 0
    assert example["image_id"] == f"scenes-{name}-validation-2-3"
    assert example["dataset"] == "scenes"
    assert example["answer_conf"] == [1.0]
    for field in ("captions", "negatives", "labels", "region_captions", "refexps"):
        assert all(isinstance(text, str) and text for text in example[field])


def test_sizes_and_bounds():
    source = ScenesSource("tiny", "train")
    assert len(source) == preset("tiny").split_size("train") == 24_000
    assert source[23_999]["image_id"].endswith("-23999")
    for index in (-1, 24_000):
        with pytest.raises(IndexError, match=str(index)):
            source[index]
    first = next(iter(ScenesSource("tiny", "test")))
    assert first["image_id"] == "scenes-tiny-test-0-0"
    with pytest.raises(ValueError, match="hardness"):
        ScenesSource("tiny", hardness=2)
    with pytest.raises(ValueError, match="negative"):
        ScenesSource("tiny", seed=-1)


@pytest.mark.parametrize("cache_size", [0, 8])
def test_source_survives_pickling(cache_size):
    source = ScenesSource("tiny", "train", 1, cache_size=cache_size)
    example = source[5]
    data = pickle.dumps(source)
    assert len(data) < 4000, "the cache must not travel"
    assert _same(pickle.loads(data)[5], example)


def test_cache_returns_the_same_examples_in_new_dicts():
    plain = ScenesSource("tiny", "train")
    cached = ScenesSource("tiny", "train", cache_size=2)
    for index in (0, 1, 0, 2, 0, 1):
        assert _same(cached[index], plain[index])
    first, second = cached[0], cached[0]
    assert first["image"] is second["image"]
    first["captions"] = []
    assert second["captions"]
    assert cached[0]["captions"]


def test_splits_open_shared_sources():
    splits = pickle.loads(pickle.dumps(ScenesSplits("tiny")))
    assert splits == ScenesSplits("tiny")
    train = splits.open("train")
    assert train is ScenesSplits("tiny").open("train")
    assert train.cache_size >= len(train)
    assert ScenesSplits("base").open("train").cache_size < 10_000
    assert ScenesSplits("tiny", cache_megabytes=0).open("train").cache_size == 0
    assert len(splits.open("compositions")) == 1_024
    with pytest.raises(ValueError, match="dev"):
        splits.open("dev")


def test_corpus_covers_every_word():
    instructions = ("which region does the text describe?",)
    lines = corpus("small", instructions, num_scenes=200)
    assert all(line.startswith(" ") and not line.startswith("  ") for line in lines)
    seen = {word.strip(",") for line in lines for word in line.split()}
    config = preset("small")
    source = ScenesSource("small", "compositions")
    for index in range(100):
        example = source[index]
        texts = [*example["captions"], *example["negatives"], example["text"]]
        texts += [t for e in example["qa"] for t in (e["question"], e["answer"])]
        texts += [t for e in example["region_qa"] for t in (e["question"], e["answer"])]
        for text in texts:
            assert {word.strip(",") for word in text.split()} <= seen, text
    assert {*config.colors, *config.shapes, *config.backgrounds, "yes", "no"} <= seen
    assert sum(line == " " + instructions[0] for line in lines) == 50
    assert lines == corpus("small", instructions, num_scenes=200)


def test_only_numpy_and_pillow_are_imported():
    program = (
        "import sys, ofa_jax.scenes, ofa_jax.scenes.baselines\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'seqio', 'matplotlib', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

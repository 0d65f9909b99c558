"""What is said about scenes: held-out pairs stay unheard of, negatives change one word."""

import collections
import re

import pytest

from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.source import ScenesSource, corpus

_ARTICLES = re.compile(r"\b(a|an)\b")


def _texts(example) -> list[str]:
    lines = [*example["captions"], *example["negatives"], *example["refexps"], example["text"]]
    lines += [*example["labels"], *example["region_captions"], example["question"]]
    for entry in (*example["qa"], *example["region_qa"]):
        # An answer names a pair together with its question.
        lines += [entry["question"], f"{entry['answer']} {entry['question']}"]
    return lines


def _named_pairs(text: str, pairs) -> list:
    """Pairs named by neighboring words, or by "the cross is red"."""
    found = []
    for color, shape in pairs:
        plural = f"{shape}(es|s)?"
        beside = re.search(rf"\b{color} {plural}\b", text)
        said = re.search(rf"\b{shape} is {color}\b", text)
        asked = re.search(rf"^{color} what color is the (small |large )?{shape}$", text)
        shape_asked = re.search(
            rf"^{shape} what shape is the (small |large )?{color} object$", text
        )
        if beside or said or asked or shape_asked:
            found.append((color, shape))
    return found


@pytest.mark.parametrize(("name", "count"), [("tiny", 3000), ("small", 800), ("base", 400)])
def test_no_training_text_names_a_held_out_pair(name, count):
    held_out = preset(name).held_out
    source = ScenesSource(name, "train", hardness=0.8)
    for index in range(count):
        for text in _texts(source[index]):
            assert not _named_pairs(text, held_out), text


@pytest.mark.parametrize("split", ["validation", "test", "unseen_style"])
def test_other_splits_do_not_name_held_out_pairs_either(split):
    held_out = preset("tiny").held_out
    source = ScenesSource("tiny", split)
    for index in range(300):
        for text in _texts(source[index]):
            assert not _named_pairs(text, held_out), text


def test_corpus_names_no_held_out_pair():
    for name in ("tiny", "small"):
        for line in corpus(name, num_scenes=300):
            assert not _named_pairs(line.strip(), preset(name).held_out), line


def test_compositions_name_held_out_pairs_everywhere():
    held_out = preset("tiny").held_out
    source = ScenesSource("tiny", "compositions")
    named = collections.Counter()
    for index in range(200):
        example = source[index]
        assert _named_pairs(" | ".join(example["labels"]), held_out)
        for field in ("captions", "negatives", "refexps"):
            named[field] += any(_named_pairs(text, held_out) for text in example[field])
        named["text"] += bool(_named_pairs(example["text"], held_out))
        questions = " | ".join(entry["question"] for entry in example["qa"])
        named["questions"] += bool(_named_pairs(questions, held_out))
    assert named["captions"] == 200
    assert min(named.values()) > 20


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_hard_negatives_change_one_word(name):
    source = ScenesSource(name)
    changed = collections.Counter()
    for index in range(500):
        example = source[index]
        assert len(set(example["negatives"])) == len(example["negatives"]) == 2
        captions = [_ARTICLES.sub("a", caption).split() for caption in example["captions"]]
        for text, kind in zip(example["negatives"], example["negative_kinds"], strict=True):
            assert kind == "hard"
            words = _ARTICLES.sub("a", text).split()
            # "left of" and "above" differ in length, but a relation turns into its opposite.
            differences = [
                [(old, new) for old, new in zip(caption, words) if old != new]
                for caption in captions
                if len(caption) == len(words)
            ]
            closest = min(differences, key=len)
            assert len(closest) == 1, (text, example["captions"])
            changed[closest[0][1].strip(",")] += 1
    config = preset(name)
    for word in (*config.colors, *config.shapes, *config.backgrounds, "left", "above"):
        assert changed[word] >= 3, word


def test_hardness_mixes_in_captions_of_other_scenes():
    kinds = {
        hardness: collections.Counter(
            kind
            for index in range(200)
            for kind in ScenesSource("tiny", hardness=hardness)[index]["negative_kinds"]
        )
        for hardness in (0.0, 0.5, 1.0)
    }
    assert set(kinds[0.0]) == {"easy"}
    assert set(kinds[1.0]) == {"hard"}
    assert 130 < kinds[0.5]["easy"] < 270


def test_first_caption_is_complete_and_captions_differ():
    source = ScenesSource("tiny")
    for index in range(200):
        example = source[index]
        captions = example["captions"]
        assert len(set(captions)) == len(captions) <= 5
        assert captions[0].endswith(f"{example['scene']['background']} background")
        assert all(label in captions[0] for label in example["labels"])
        if len(example["boxes"]) == 2:
            assert len(captions) == 5


def test_texts_are_short():
    source = ScenesSource("tiny")
    for index in range(500):
        example = source[index]
        assert max(len(caption.split()) for caption in example["captions"]) <= 11
        assert len(example["text"].split()) <= 17
        assert max(len(entry["question"].split()) for entry in example["qa"]) <= 10


def test_nearly_every_object_is_referred_to_by_its_shortest_phrase():
    source = ScenesSource("small")
    objects = referred = 0
    for index in range(300):
        example = source[index]
        assert example["refexps"]
        objects += len(example["boxes"])
        referred += len(set(example["refexp_box_index"].tolist()))
        for box in set(example["refexp_box_index"].tolist()):
            phrases = [
                text
                for text, number in zip(example["refexps"], example["refexp_box_index"])
                if number == box
            ]
            color, shape = example["labels"][box].split()
            alone = sum(shape in label for label in example["labels"]) == 1
            alone |= sum(color in label for label in example["labels"]) == 1
            if alone:
                assert len(phrases[0].split()) == (2 if shape in phrases[0] else 3)
                assert phrases[1] == f"the {color} {shape}"
    assert referred / objects > 0.97

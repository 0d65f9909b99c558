"""Ids of whole examples against those of the official data sets (caption and VQA)."""

import json

import numpy as np
import pytest

from ofa_jax.decoding.constraints import Trie
from ofa_jax.text.cleaning import ask, caption_prediction, caption_target, pre_question
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.vocab import BOS_ID, EOS_ID, PAD_ID, swap_official_ids
from tests.shared import fixtures_dir, gpt2_dir, requires_gpt2

pytestmark = requires_gpt2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(gpt2_dir())


@pytest.fixture(scope="module")
def items() -> dict:
    return json.loads((fixtures_dir() / "dataset_items.json").read_text())


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(len(row) for row in rows)
    return [row + [PAD_ID] * (width - len(row)) for row in rows]


def internal(rows: list[list[int]]) -> list[list[int]]:
    return swap_official_ids(np.array(rows)).tolist()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_caption_examples(tokenizer, items, split):
    case = items[f"caption_{split}"]
    prompt = tokenizer.encode(" what does the image describe?")
    assert internal(case["source"]) == [[BOS_ID, *prompt, EOS_ID]] * len(case["captions"])
    if split == "train":
        targets = [caption_target(caption, case["max_tgt_length"]) for caption in case["captions"]]
    else:
        # All references of an image, joined; punctuation goes after white space is collapsed, so
        # that a lone dash leaves two spaces.
        targets = [
            "&&".join(caption_prediction(part) for part in " ".join(caption.split()).split("&&"))
            for caption in case["captions"]
        ]
    rows = [tokenizer.encode_text(" " + target) for target in targets]
    assert padded([[*row, EOS_ID] for row in rows]) == internal(case["target"])
    assert padded([[BOS_ID, *row] for row in rows]) == internal(case["prev"])
    assert sum(len(row) + 1 for row in rows) == case["ntokens"]


@pytest.mark.parametrize("prompt_type", ["none", "src", "prev_output"])
def test_vqa_examples(tokenizer, items, prompt_type):
    case = items[f"vqa_{prompt_type}"]
    names = " ".join(case["objects"].split("&&")[: case["max_object_length"]])
    sources, prompts, answers, confidences = [], [], [], []
    for question, references in case["questions"]:
        text = " " + ask(pre_question(question, 80))
        source = tokenizer.encode_text(text) + tokenizer.encode_text(" object: " + names)
        weighted = (reference.split("|!+") for reference in references.split("&&"))
        confidence, answer = max(((float(c), a) for c, a in weighted), key=lambda pair: pair[0])
        sources.append([BOS_ID, *source, EOS_ID])
        prompts.append(
            {
                "none": [BOS_ID],
                "src": [BOS_ID, *source, EOS_ID],
                "prev_output": [BOS_ID, *source],
            }[prompt_type]
        )
        answers.append(tokenizer.encode_text(" " + answer))
        confidences.append(confidence)
    targets = padded(
        [
            [PAD_ID] * (len(prompt) - 1) + answer + [EOS_ID]
            for prompt, answer in zip(prompts, answers)
        ]
    )
    assert padded(sources) == internal(case["source"])
    assert prompts == [internal([row])[0] for row in case["decoder_prompts"]]
    assert padded([p + a for p, a in zip(prompts, answers)]) == internal(case["prev"])
    assert targets == internal(case["target"])
    np.testing.assert_allclose(confidences, case["conf"])

    trie = Trie.build([tokenizer.encode_text(" " + answer) for answer in case["answers"]])
    lengths = np.array([len(prompt) - 1 for prompt in prompts], np.int32)
    masks = np.asarray(
        trie.target_masks(np.array(targets, np.int32), tokenizer.layout.size, lengths)
    )
    for row, expected in enumerate(case["constraint_true"]):
        for position, allowed in enumerate(expected):
            if allowed != "all":  # rows of padding, which the loss never reads
                found = np.flatnonzero(masks[row, position]).tolist()
                assert found == allowed, (row, position)

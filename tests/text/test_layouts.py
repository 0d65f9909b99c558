"""Vocabularies and weights that belong together, and those that do not."""

import dataclasses
import json

import pytest

from ofa_jax.text.layouts import fitting_layout, read_layout, stated_layout, write_layout
from ofa_jax.vocab import CHINESE, ENGLISH, VocabLayout

SMALL = VocabLayout(num_text=300, num_codes=4, num_bins=20, max_image_size=64)
# Its text with the official codes and bins.
WIDE = 4 + 300 + 1 + 8192 + 1000


def fit(num_text, vocab_size, **known):
    return fitting_layout(num_text, vocab_size, name="words", **known)


def test_exact_sizes_fit():
    assert fit(ENGLISH.num_text, 59457) == ENGLISH
    assert fit(CHINESE.num_text, 30325, num_codes=8192, num_bins=1000) == CHINESE
    assert fit(300, SMALL.size, stated=SMALL) == SMALL
    assert fit(300, SMALL.size, own=SMALL) == SMALL
    listed = dataclasses.replace(SMALL, max_image_size=512)
    assert fit(300, SMALL.size, stated=listed, own=SMALL) == SMALL
    assert fit(300, 4 + 300 + 1 + 64 + 50, num_codes=64, num_bins=50).num_bins == 50
    assert fit(300, WIDE) == VocabLayout(300)
    assert fit(300, WIDE, max_image_size=320).max_image_size == 320


@pytest.mark.parametrize(
    ("num_text", "vocab_size", "known", "message"),
    [
        # What was called 30,132 bins.
        (
            21128,
            59457,
            {},
            "21,128 text tokens with 8,192 codes and 1,000 bins make 30,325 ids, the weights have "
            "59,457 as the English models with 50,260 text tokens",
        ),
        (50260, 30325, {}, "30,325 as the Chinese models with 21,128 text tokens (BERT) have"),
        (50260, 59520, {}, "if the last 63 rows are padding, ignore them: ignore_extra_rows=True"),
        (50260, 59456, {}, "a vocabulary of 50,259 text tokens would fit"),
        (50260, 5000, {}, "a vocab_layout.json beside it must say how many codes and bins"),
        (300, 4000, {"num_codes": 64}, "a vocabulary of 2,931 text tokens would fit"),
        (300, SMALL.size + 2000, {"stated": SMALL}, "4 codes and 20 bins make 329 ids"),
        (300, SMALL.size - 1, {"own": SMALL}, "make 329 ids, the weights have 328"),
        (301, SMALL.size, {"own": SMALL}, "301 text tokens, the one that the weights were trained"),
        (
            300,
            SMALL.size,
            {"own": SMALL, "stated": VocabLayout(300, num_codes=14, num_bins=10)},
            "14 codes and 10 bins, the one that the weights were trained with 4 and 20",
        ),
    ],
)
def test_everything_else_is_an_error_with_the_numbers(num_text, vocab_size, known, message):
    with pytest.raises(ValueError, match="words: the vocabulary") as error:
        fit(num_text, vocab_size, **known)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_extra_rows_are_ignored_on_request_only_and_never_many():
    assert fit(50260, 59520, ignore_extra_rows=True) == ENGLISH
    assert fit(50260, 59457, ignore_extra_rows=True) == ENGLISH
    assert fit(300, SMALL.size + 1023, stated=SMALL, ignore_extra_rows=True) == SMALL
    for num_text, vocab_size in ((21128, 59457), (50260, 59457 + 1024), (50260, 59456)):
        with pytest.raises(ValueError, match="does not fit the weights"):
            fit(num_text, vocab_size, ignore_extra_rows=True)


def test_layouts_are_saved_and_read(tmp_path):
    assert read_layout(tmp_path) is None
    write_layout(tmp_path, SMALL)
    assert read_layout(tmp_path) == stated_layout(tmp_path, 300) == SMALL
    for content in ("{", '{"bins": 3}', '{"num_bins": 0}', "[1]"):
        (tmp_path / "vocab_layout.json").write_text(content)
        with pytest.raises(ValueError, match=r"vocab_layout\.json: "):
            read_layout(tmp_path)


def listed(layout, **changed):
    tokens = {"<mask>": layout.mask_id}
    tokens |= {f"<code_{i}>": layout.code_start + i for i in range(layout.num_codes)}
    tokens |= {f"<bin_{i}>": layout.bin_start + i for i in range(layout.num_bins)}
    return {**tokens, **changed}


@pytest.mark.parametrize("name", ["added_tokens.json", "vocab.json"])
def test_lists_of_whole_tokens_state_a_layout(tmp_path, name):
    layout = dataclasses.replace(SMALL, max_image_size=512)
    path = tmp_path / name
    path.write_text(json.dumps(listed(layout)))
    assert stated_layout(tmp_path, 300) == layout
    tokens = listed(layout)
    del tokens["<mask>"]
    path.write_text(json.dumps(tokens))
    assert stated_layout(tmp_path, 300) == layout
    path.write_text(json.dumps({"<mask>": 304}))
    assert stated_layout(tmp_path, 300) is None
    for wrong, message in (
        (listed(layout, **{"<bin_0>": 308}), r"<bin_0> has the id 308, but .* it is 309"),
        ({"<bin_1>": 305}, r"<bin_0> has the id none, but .* it is 305"),
        (listed(layout, **{"<mask>": 3}), r"<mask> has the id 3, but"),
        (listed(layout, **{"<code_9>": 9}), r"<code_4> has the id none"),
        ([1], "expected JSON with an object"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            stated_layout(tmp_path, 300)
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{name}: cannot be read as JSON"):
        stated_layout(tmp_path, 300)

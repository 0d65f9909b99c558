"""Text, codes, bins and `<mask>` in one sequence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.text.tokenizer import TextTokenizer, Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import BOS_ID, EOS_ID, PAD_ID, UNK_ID, VocabLayout

BPE = TrainedBPE.train([" what does the region describe? region: dog cat"] * 2, vocab_size=400)
LAYOUT = VocabLayout(num_text=BPE.num_text, num_codes=64, num_bins=1000)
TOKENIZER = Tokenizer(BPE, LAYOUT)


def bins(*numbers: int) -> list[int]:
    return [LAYOUT.bin_start + number for number in numbers]


def test_spaces_belong_to_the_text_behind_a_whole_token():
    region = TOKENIZER.encode_text(" region:")
    dog = TOKENIZER.encode_text(" dog")
    assert TOKENIZER.encode(" region: <bin_1> <bin_2><bin_3>  <bin_999>") == region + bins(
        1, 2, 3, 999
    )
    assert TOKENIZER.encode("<bin_0> dog <code_63> ") == [*bins(0), *dog, LAYOUT.code_start + 63]
    assert TOKENIZER.encode(" dog<mask> dog <mask>.") == [
        *dog,
        LAYOUT.mask_id,
        *dog,
        LAYOUT.mask_id,
        *TOKENIZER.encode_text("."),
    ]


def test_other_angle_brackets_are_plain_text():
    for text in (" 3 < 4", " <html>", " <bin_>", " <bin_-1>", " <s>", " <unk> <pad>"):
        assert TOKENIZER.encode(text) == TOKENIZER.encode_text(text)
    assert TOKENIZER.decode(TOKENIZER.encode_text(" <bin_3>")) == " <bin_3>"
    assert len(TOKENIZER.encode_text(" <bin_3>")) > 1


def test_whole_tokens_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"<bin_1000> .*<bin_999>"):
        TOKENIZER.encode(" a <bin_1000>")
    with pytest.raises(ValueError, match="<code_64> does not exist"):
        TOKENIZER.encode("<code_64>")
    without_codes = Tokenizer(BPE, VocabLayout(num_text=BPE.num_text, num_codes=0))
    with pytest.raises(ValueError, match="has 0 codes"):
        without_codes.encode("<code_0>")


piece = st.one_of(
    st.sampled_from([" dog", " cat", ".", " region:", "x"]),
    st.integers(0, 999).map(lambda i: f"<bin_{i}>"),
    st.integers(0, 63).map(lambda i: f"<code_{i}>"),
    st.just("<mask>"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(piece))
def test_decoding_can_be_encoded_again(pieces):
    ids = TOKENIZER.encode("".join(pieces))
    assert TOKENIZER.encode(TOKENIZER.decode(ids)) == ids


def test_decoding_drops_specials_and_refuses_foreign_ids():
    ids = [BOS_ID, *TOKENIZER.encode(" a dog <bin_7> <bin_8>"), EOS_ID, PAD_ID, PAD_ID]
    assert TOKENIZER.decode(np.array(ids, np.int32)) == " a dog <bin_7> <bin_8>"
    assert TOKENIZER.decode([*TOKENIZER.encode_text(" a"), UNK_ID]) == " a <unk>"
    assert TOKENIZER.decode([]) == ""
    with pytest.raises(ValueError, match="outside of the vocabulary"):
        TOKENIZER.decode([LAYOUT.size])


def test_box_bins_are_pixels_of_the_model_input():
    """A fraction of the image would give 500 for the middle of any image (SPEC 4.5)."""
    assert TOKENIZER.encode_box([0, 128, 256, 512]) == bins(0, 250, 500, 999)
    box = [12.3, 40.0, 200.9, 383.0]
    decoded = TOKENIZER.decode_box([BOS_ID, *TOKENIZER.encode_box(box), EOS_ID])
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, box, atol=512 / 999 / 2 + 1e-4)
    with pytest.raises(ValueError, match="x0, y0, x1, y1"):
        TOKENIZER.encode_box([1, 2, 3])


def test_a_box_is_the_first_run_of_four_bins():
    text = TOKENIZER.encode_text(" dog")
    assert TOKENIZER.decode_box(bins(1, 2, 3)) is None
    assert TOKENIZER.decode_box([*bins(1, 2), *text, *bins(3, 4)]) is None
    expected = LAYOUT.bins_to_coordinates(np.array([5, 6, 7, 8]))
    np.testing.assert_array_equal(
        TOKENIZER.decode_box([*bins(1), *text, *bins(5, 6, 7, 8, 9)]), expected
    )


def test_objects_there_and_back():
    boxes = np.array([[0, 0, 10, 20], [30.5, 40.25, 256, 100]], np.float32)
    ids = TOKENIZER.encode_boxes(boxes, ["dog", "Big cat"])
    first = [*TOKENIZER.encode_box(boxes[0]), *TOKENIZER.encode_text(" dog")]
    assert ids[: len(first)] == first
    objects = TOKENIZER.decode_objects([BOS_ID, *ids, EOS_ID, PAD_ID])
    assert [label for _, label in objects] == ["dog", "Big cat"]
    for (box, _), true in zip(objects, boxes):
        np.testing.assert_allclose(box, true, atol=512 / 999 / 2 + 1e-4)
    assert TOKENIZER.encode_boxes(np.zeros((0, 4)), []) == []
    with pytest.raises(ValueError, match="2 boxes but 1 labels"):
        TOKENIZER.encode_boxes(boxes, ["dog"])


def test_half_written_objects_are_left_out():
    dog = TOKENIZER.encode_text(" dog")
    objects = TOKENIZER.decode_objects([*dog, *bins(1, 2, 3, 4), *dog, *bins(5, 6), *dog])
    assert [(len(box), label) for box, label in objects] == [(4, "dog")]
    assert TOKENIZER.decode_objects(bins(1, 2, 3, 4))[0][1] == ""
    assert TOKENIZER.decode_objects([]) == []


def test_layout_and_vocabulary_must_agree():
    assert isinstance(BPE, TextTokenizer)
    with pytest.raises(ValueError, match="text tokens"):
        Tokenizer(BPE, VocabLayout())


def test_a_saved_layout_comes_back(tmp_path):
    TOKENIZER.save(tmp_path)
    assert load_tokenizer(tmp_path).layout == LAYOUT
    other = VocabLayout(num_text=BPE.num_text, num_bins=10)
    assert load_tokenizer(tmp_path, layout=other).layout == other


def test_probabilities_of_boxes():
    dog = TOKENIZER.encode_text(" dog")
    first, second = np.log([0.9, 0.8, 0.7, 0.6]), np.log([0.5, 0.5, 0.4, 1.0])
    ids = [*dog, *bins(1, 2, 3, 4), *dog, *bins(9, 5, 6, 7, 8), *dog, EOS_ID]
    words = [-9.0] * len(dog)
    gains = [*words, *first, *words, -3.0, *second, *words, -1.0]
    assert TOKENIZER.box_probability(ids, gains) == pytest.approx(0.9 * 0.8 * 0.7 * 0.6)
    found = TOKENIZER.object_probabilities(ids, np.array(gains, np.float32))
    assert found == pytest.approx([0.9 * 0.8 * 0.7 * 0.6, 0.1], rel=1e-5)
    assert len(found) == len(TOKENIZER.decode_objects(ids)) == 2
    assert TOKENIZER.box_probability([*bins(1, 2, 3), *dog], [0.0] * (3 + len(dog))) is None
    assert TOKENIZER.object_probabilities(dog, words) == []

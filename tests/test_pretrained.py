"""The one-line interface: from a directory of weights and vocabulary to text and boxes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from ofa_jax.checkpoint import orbax_weights, vocabulary
from ofa_jax.checkpoint.names import to_params
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import IdRanges, Trie
from ofa_jax.inference.loading import load
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.model.ofa import OFA
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import BOS_ID, EOS_ID, VocabLayout
from tests.checkpoint.official import SMALL, random_state_dict

SIDE = 48


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A directory of ours: random weights, a trained vocabulary, its configuration."""
    directory = tmp_path_factory.mktemp("model")
    text = TrainedBPE.train(["what does the image describe? a red circle"] * 3, num_merges=20)
    layout = VocabLayout(num_text=text.num_text, num_codes=4, num_bins=20, max_image_size=64)
    Tokenizer(text, layout).save(directory)
    config = dataclasses.replace(SMALL, vocab_size=layout.size, padded_vocab_size=None, num_codes=4)
    variables = to_params(random_state_dict(config), config)
    record = orbax_weights.SourceRecord("initialized", "test")
    orbax_weights.write_weights(directory, variables, config, record)
    return directory


@pytest.fixture(scope="module")
def predictor(model_directory):
    return load(
        model_directory, image_size=SIDE, decoding=BeamConfig(beam=1, max_len_b=4, min_len=4)
    )


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def answers(predictor, picture, tmp_path_factory):
    """Two questions, one with an image from a file, answered with bins: one compiled program."""
    path = tmp_path_factory.mktemp("picture") / "image.png"
    picture.save(path)
    layout = predictor.tokenizer.layout
    bins = IdRanges(((layout.bin_start, layout.size),))
    return predictor.generate_batch(
        [path, None], ["where is it?", "what does the image"], constraint=bins
    )


def test_boxes_are_in_pixels_of_the_given_image(predictor, answers):
    answer, without_image = answers
    layout = predictor.tokenizer.layout
    ids = np.array(answer.token_ids)
    assert layout.is_bin(ids).all()
    assert len(ids) == 4
    # SPEC 8.14: bin / (bins - 1) * 64 are pixels of the square input, then back to 90 x 30.
    inside = (ids - layout.bin_start) / 19 * 64
    expected = inside * np.tile([90 / SIDE, 30 / SIDE], 2)
    np.testing.assert_allclose(answer.box, expected, rtol=1e-5)
    assert str(answer) == answer.text
    assert answer.text.count("<bin_") == 4
    assert np.isfinite(answer.score)
    assert len(without_image.token_ids) == 4
    assert without_image.box is None


@pytest.mark.parametrize("prompt", ["source", "source_and_eos"])
def test_a_decoder_prompt_is_context(predictor, prompt):
    """Neither its eos nor its length nor its probability belongs to the answer."""
    questions = ["a red", "a red circle"]
    decoding = BeamConfig(beam=3, max_len_b=4, min_len=4, no_repeat_ngram_size=3)
    for answer in predictor.generate_batch(
        [None, None], questions, decoder_prompt=prompt, decoding=decoding
    ):
        assert len(answer.token_ids) == 4
    only = predictor.tokenizer.encode_text(" red circle")
    for answer in predictor.generate_batch(
        [None, None],
        questions,
        decoder_prompt=prompt,
        decoding=BeamConfig(beam=3, max_len_b=len(only)),
        constraint=Trie.build([only]),
    ):
        assert answer.token_ids == tuple(only)
        assert answer.score == pytest.approx(0, abs=1e-6)


def test_greedy_answer_is_the_argmax_of_the_model(predictor, picture, answers):
    # Teacher forcing on the answer gives each of its tokens the highest logit.
    answer = answers[0]
    layout = predictor.tokenizer.layout
    ids = predictor.tokenizer.encode(" where is it?")
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    batch = {
        "encoder_input_tokens": np.array([[BOS_ID, *ids, EOS_ID]], np.int32),
        "encoder_images": pixels[None],
        "decoder_input_tokens": np.array([[BOS_ID, *answer.token_ids]], np.int32),
    }
    apply = jax.jit(OFA(predictor.config).apply)
    logits = np.array(apply(predictor._variables, batch)[0])
    logits[:, : layout.bin_start] = -np.inf
    assert tuple(logits.argmax(-1)[:4]) == answer.token_ids


def test_regions_are_written_as_bins(predictor, picture):
    text = predictor.region([0, 0, 90, 15], picture)
    # 48 of 64 pixels are bin 14.25, 24 are 7.125.
    assert text == "<bin_0> <bin_0> <bin_14> <bin_7>"
    ids = predictor.tokenizer.encode(f" what does the region describe? region: {text}")
    assert predictor.tokenizer.layout.is_bin(np.array(ids)).sum() == 4


@pytest.mark.parametrize(
    ("images", "instructions", "message"),
    [
        ([None], ["  "], "instruction is empty"),
        ([None], ["a" * 500], "tokens, the model reads 32"),
        ([None], ["look at <bin_20>"], "bin"),
        ([], [], "one image"),
        ([None, None], ["a"], "2 images and 1 instructions"),
        (["nowhere.png"], ["a"], "no such image file"),
        ([np.zeros((4, 4, 3), np.float32)], ["a"], "uint8"),
    ],
)
def test_bad_questions(predictor, images, instructions, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predictor.generate_batch(images, instructions)


def test_bad_models(model_directory, tmp_path, predictor):
    with pytest.raises(ValueError, match=r"image_size must be 1 \.\. 96"):
        load(model_directory, image_size=500)
    config = dataclasses.replace(predictor.config, vocab_size=600, padded_vocab_size=None)
    with pytest.raises(ValueError, match="belong to different models"):
        OFAPredictor(config, {}, predictor.tokenizer)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    bare = tmp_path / "bare"
    variables = to_params(random_state_dict(), SMALL)
    record = orbax_weights.SourceRecord("initialized", "test")
    orbax_weights.write_weights(bare, variables, SMALL, record)
    with pytest.raises(FileNotFoundError, match="no vocabulary files beside"):
        load(bare)
    small = tmp_path / "vocabulary"
    small.mkdir()
    words = ["antidisestablishmentarianism", "floccinaucinihilipilification"] * 2
    Tokenizer(TrainedBPE.train(words, num_merges=45)).save(small)
    with pytest.raises(ValueError, match="do not belong together"):
        load(model_directory, vocabulary=small, image_size=SIDE)


def test_vocabulary_from_the_hub(model_directory, monkeypatch):
    asked = []

    def fetch(repository, *, weights):
        asked.append((repository, weights))
        return model_directory

    monkeypatch.setattr(vocabulary, "fetch_repository", fetch)
    loaded = load(model_directory, vocabulary="owner/words", image_size=SIDE)
    assert asked == [("owner/words", False)]
    assert loaded.tokenizer.layout.num_codes == 4


def test_the_layout_saved_with_the_weights_counts_where_the_vocabulary_has_none(
    model_directory, predictor, tmp_path
):
    (tmp_path / "trained_bpe.json").write_text((model_directory / "trained_bpe.json").read_text())
    loaded = load(model_directory, vocabulary=tmp_path, dtype="bfloat16", image_size=SIDE)
    assert loaded.tokenizer.layout == predictor.tokenizer.layout
    assert loaded.config.dtype == "bfloat16"

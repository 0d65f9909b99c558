"""Images of a text: drawn, guided, ranked, as PIL images and as files."""

import dataclasses

import numpy as np
import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.answerer import Answers
from ofa_jax.inference.generated_images import image_settings, write_images
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.ranked_images import MatchingRanker, clip_ranker, ranked, source_texts
from ofa_jax.metrics.generation import Extractors
from ofa_jax.scenes.tokenizers import scenes_codebook
from tasks.scenes_images import DECODING
from tests.model.small import make_config, make_variables

LENGTHS = {"inputs": 32, "targets": 17, "image": 32}
CAPTION = "a red circle left of a blue square"


def card(family, **changes):
    task = lookup(f"scenes_{family}")[0][0]
    answering = dataclasses.replace(task.answering, **changes)
    return TaskCard.of(dataclasses.replace(task, answering=answering), LENGTHS)


@pytest.fixture(scope="module")
def predictor():
    task = lookup("scenes_text_to_image")[0][0]
    layout = task.tokenizer().layout
    config = make_config(
        vocab_size=layout.size,
        padded_vocab_size=layout.padded_size,
        num_codes=layout.num_codes,
        code_image_size=16,
        code_stride=4,
        max_positions=64,
    )
    return OFAPredictor(
        config,
        make_variables(config),
        task.tokenizer(),
        cards=[card("text_to_image"), card("image_text_matching")],
        image_tokenizer=scenes_codebook("tiny"),
    )


def bright(images):
    mean = np.asarray(images, np.float32).mean((1, 2, 3)) / 255 - 0.5
    return np.stack([mean, 1 - np.abs(mean)], axis=1)


BY_LIGHT = Extractors(
    image_embeddings=bright,
    text_embeddings=lambda texts: np.array([[1.0 if "light" in t else -1.0, 0.0] for t in texts]),
)


def test_images_are_drawn_and_ranked(predictor):
    [image] = predictor.generate_image(CAPTION)
    assert (image.size, image.mode) == ((16, 16), "RGB")
    assert predictor.generate_image(CAPTION)[0].tobytes() == image.tobytes()
    assert predictor.generate_image(CAPTION, seed=1)[0].tobytes() != image.tobytes()
    light = predictor.generate_image("light", count=4, candidates=4, extractors=BY_LIGHT)
    means = [np.asarray(one).mean() for one in light]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 1
    dark = predictor.generate_image("dark", count=2, candidates=4, extractors=BY_LIGHT)
    assert len(dark) == 2
    assert np.asarray(dark[0]).mean() <= np.asarray(dark[1]).mean()


def test_the_model_ranks_by_its_own_answer(predictor):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    matching = predictor.cards[1]
    ranker = MatchingRanker(
        predictor._answerer(0), predictor._variables, matching.instruction, 32, batch_size=4
    )
    [scores] = ranker(images[None], [CAPTION])
    for image, score in zip(images, scores):
        said = predictor.generate(
            image,
            task="image_text_matching",
            fields={"caption": CAPTION},
            answers=("yes", "no"),
            method="candidates",
            best=2,
        )
        [yes] = [one for one in (said, *said.alternatives) if one.text == "yes"]
        assert score == pytest.approx(yes.log_probability, abs=1e-4)


def test_answers_are_put_in_order():
    codebook = PatchCodebook(np.stack([np.full((4, 4, 3), value) for value in (0, 255)]))
    tokens = np.array([[[5, 5, 5, 5, 2], [6, 6, 5, 5, 2], [6, 6, 6, 6, 2]]], np.int32)
    scores = np.array([[-1.0, -2.0, -3.0]], np.float32)
    found = ranked(Answers(tokens, scores, scores), ["light"], clip_ranker(BY_LIGHT), codebook, 5)
    assert found.scores.tolist() == [[-3.0, -2.0, -1.0]]
    assert found.tokens[0, 0].tolist() == [6, 6, 6, 6, 2]
    assert found.first(1).tokens.shape == (1, 1, 5)
    assert clip_ranker(Extractors()) is None


def test_the_text_is_found_in_its_row(predictor):
    instruction = predictor.cards[0].instruction
    rows = {"encoder_input_tokens": predictor._tokens([f"{instruction.source[0]}{CAPTION}"])}
    assert source_texts(rows, instruction, predictor._answerer(0)) == [CAPTION]
    with pytest.raises(ValueError, match="ranked by the text at the end"):
        source_texts(rows, Instruction.parse("[TEXT:a] or not? -> [CODE:codes]"), None)


@pytest.mark.slow  # infer writes files in tests/integration/test_image_answers.py
def test_files(predictor, tmp_path):
    settings = image_settings(predictor, {"samples": 2}, True, whole=True)
    assert settings == SamplingConfig(**DECODING, samples=2)
    files = write_images(
        predictor,
        f"what is the complete image? caption: {CAPTION}",
        None,
        tmp_path / "generated.png",
        decoding=settings,
    )
    assert [file.name for file in files] == ["generated.png", "generated_1.png"]
    image = np.zeros((32, 32, 3), np.uint8)
    [file] = write_images(
        predictor,
        "what is the image in the middle part?",
        image,
        tmp_path / "x_infilled.png",
        decoding=SamplingConfig(),
    )
    assert file.is_file()


def test_what_cannot_be_is_one_line(predictor):
    with pytest.raises(ValueError, match="the text is empty"):
        predictor.generate_image("  ")
    many = PatchCodebook(np.zeros((300, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"300 codes .*model 128"):
        predictor.generate_image(CAPTION, image_tokenizer=many)
    parts = predictor.config, predictor._variables, predictor.tokenizer
    alone = OFAPredictor(*parts, cards=[card("text_to_image", empty_prompts=0.0)])
    with pytest.raises(ValueError, match="no image tokenizer"):
        alone.generate_image(CAPTION)
    for guidance in (0.5, 2.0):
        with pytest.raises(ValueError, match=f"guidance .*1, got {guidance:g}"):
            alone.generate_image(
                CAPTION,
                image_tokenizer=scenes_codebook("tiny"),
                decoding=SamplingConfig(guidance=guidance),
            )

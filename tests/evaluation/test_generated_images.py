"""Predicted codes as pictures: files for the report, scores by networks of the user."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

import tasks.image_generation  # noqa: F401
from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.evaluation import streaming
from ofa_jax.evaluation.generated_images import CodeImages
from ofa_jax.evaluation.rows import write_images
from ofa_jax.inference.answerer import Answers
from ofa_jax.inference.code_images import code_grid, decoded_images, with_center
from ofa_jax.metrics.generation import Extractors
from ofa_jax.report.examples import Family, task_family
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import EOS_ID, VocabLayout
from tasks import instructions

RNG = np.random.default_rng(1)
LENGTHS = {"inputs": 64, "targets": 20, "image": 16}
# The brightness of an image is the number of its code, and its caption says which half it is in.
CODEBOOK = PatchCodebook(np.repeat(np.arange(24) * 10.0, 4 * 4 * 3).reshape(24, 4, 4, 3))
CAPTIONS = ("dark", "bright", "dark", "bright", "dark")
CODES = [np.full(16, 20 if word == "bright" else 2) for word in CAPTIONS]


@dataclasses.dataclass(frozen=True)
class Listed:
    """A source of the captions above, with or without codes."""

    with_codes: bool = True

    def open(self, split):
        del split
        codes = CODES if self.with_codes else [np.zeros(0, np.int32)] * len(CODES)
        return [
            {"type": "caption", "image_id": str(number), "captions": [word], "image_codes": grid}
            for number, (word, grid) in enumerate(zip(CAPTIONS, codes))
        ]


def tokenizer():
    text = TrainedBPE.train(["what is the complete image? caption: dark bright"], num_merges=60)
    layout = VocabLayout(num_text=text.num_text, num_codes=24, num_bins=8, max_image_size=16)
    return Tokenizer(text, layout)


def text_to_image(source=Listed()):
    [(task, _)] = lookup("text_to_image_prepared")
    return dataclasses.replace(task, source=source, tokenizer=tokenizer)


def answer(task, rows, number):
    """The true codes, but for the first example the code 23 everywhere and the last one missing."""
    del number
    start = task.tokenizer().layout.code_start
    tokens = np.full((len(rows["task_ids"]), 17), EOS_ID, np.int32)
    for row, ids in zip(tokens, rows["encoder_input_tokens"]):
        bright = "bright" in task.tokenizer().decode(ids)
        row[:16] = start + (20 if bright else 2)
    tokens[0, :15], tokens[0, 15] = start + 23, EOS_ID
    scores = np.zeros((len(tokens), 1), np.float32)
    return Answers(tokens[:, None], scores, scores)


def predicted(tmp_path, task, name="text_to_image", image_tokenizer=CODEBOOK):
    work = streaming.FileLines(streaming.Shard().work_file(tmp_path / "work", name))
    streaming.predict_split(task, answer, LENGTHS, split="validation", lines=work, batch_size=5)
    streaming.write_split(
        task,
        [work],
        streaming.score_split(task, [work]),
        tmp_path,
        name=name,
        lengths=LENGTHS,
        split="validation",
        image_tokenizer=image_tokenizer,
    )
    path = tmp_path / "predictions" / f"{name}.jsonl"
    return work, [json.loads(line) for line in path.read_text().splitlines()]


def pixels(tmp_path, name):
    return np.asarray(Image.open(tmp_path / name))


def brightness(pictures):
    mean = pictures.mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - mean, mean], axis=1)


def words(texts):
    return np.stack([[1.0, 0.0] if text == "dark" else [0.0, 1.0] for text in texts])


def networks():
    return Extractors(brightness, brightness, brightness, words)


def test_generated_and_real_images_are_written(tmp_path):
    _, rows = predicted(tmp_path, text_to_image())
    assert task_family("anything", rows) is Family.IMAGE_GENERATION
    first = pixels(tmp_path, rows[0]["generated_image"])
    assert first.shape == (16, 16, 3)
    assert (first[:12] == 230).all()
    assert (first[12:, 12:] == 0).all(), "a missing code is code 0"
    assert (pixels(tmp_path, rows[0]["target_image"]) == 20).all()
    assert (pixels(tmp_path, rows[1]["generated_image"]) == 200).all()
    assert rows[1]["score"] == 1.0


def test_captions_without_images_and_tasks_without_tokenizer(tmp_path):
    _, rows = predicted(tmp_path, text_to_image(Listed(with_codes=False)))
    # 15 codes were written; the largest square of them is shown.
    assert pixels(tmp_path, rows[0]["generated_image"]).shape == (12, 12, 3)
    assert pixels(tmp_path, rows[1]["generated_image"]).shape == (16, 16, 3)
    assert "target_image" not in rows[0]
    _, rows = predicted(tmp_path, text_to_image(), "unseen", image_tokenizer=None)
    assert not {"generated_image", "target_image", "image_size"} & set(rows[0])


def test_scores_by_networks(tmp_path):
    task = text_to_image()
    work, _ = predicted(tmp_path, task)
    pictures = CodeImages({task.name: CODEBOOK}, networks())
    scores = pictures.scores(task, [work])
    assert set(scores) == {"fid", "inception_score", "clip_score"}
    made = brightness(np.stack(list(decoded_images([np.array([23] * 15 + [0])], CODEBOOK))))
    good = [brightness(np.full((1, 4, 4, 3), 10 * code[0]))[0] for code in CODES[1:]]
    cosines = [
        row @ words([word])[0] / np.linalg.norm(row)
        for row, word in zip([made[0], *good], CAPTIONS)
    ]
    assert scores["clip_score"] == pytest.approx(100 * np.mean(cosines))
    assert scores["fid"] > 0
    assert CodeImages({task.name: CODEBOOK}).scores(task, [work]) == {}
    # Real images from elsewhere.
    moments = (np.array([0.5, 0.5]), np.eye(2))
    other = CodeImages({task.name: CODEBOOK}, networks(), moments).scores(task, [work])
    assert other["fid"] != pytest.approx(scores["fid"])
    without = text_to_image(Listed(with_codes=False))
    work, _ = predicted(tmp_path, without, "other")
    assert "fid" not in pictures.scores(without, [work])


def test_settings_are_checked_at_the_start(tmp_path):
    CODEBOOK.save(tmp_path / "codebook.npz")
    sys.modules["networks_of_a_test"] = sys.modules[__name__]
    function, codebook = "networks_of_a_test:networks", str(tmp_path / "codebook.npz")
    np.savez(tmp_path / "real.npz", mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "wrong.npz", mean=np.zeros(2))
    task = text_to_image()
    found = CodeImages.of_settings([task], codebook, function, str(tmp_path / "real.npz"))
    assert found.tokenizers[task.name].num_codes == 24
    np.testing.assert_array_equal(found.real_moments[1], np.eye(2))
    for settings, message in (
        (("", function, ""), "need a text-to-image task and image_tokenizer"),
        ((codebook, "", str(tmp_path / "real.npz")), "give extractors too"),
        ((codebook, function, str(tmp_path / "no.npz")), "there is no file"),
        ((codebook, function, str(tmp_path / "wrong.npz")), "no arrays mu and sigma"),
    ):
        with pytest.raises(ValueError, match=message):
            CodeImages.of_settings([task], *settings)


def test_infilled_middles_are_brought_to_size(tmp_path):
    """A model that reads 32 pixels, codes of 16: the middle is enlarged to what was hidden."""
    instruction = Instruction.parse(instructions.IMAGE_INFILLING)
    task = dataclasses.replace(text_to_image(), instructions=(instruction,), scorer="codes")
    image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    example = {"image": image, "image_codes": CODES[0]}
    ids = CODES[1] + task.tokenizer().layout.code_start
    row = write_images(task, 3, example, ids, tmp_path, "infilling", CODEBOOK)
    infilled = pixels(tmp_path, row["infilled_image"])
    assert (infilled[16:48, 16:48] == 200).all()
    np.testing.assert_array_equal(infilled[:16], image[:16])
    assert (pixels(tmp_path, row["target_image"])[16:48, 16:48] == 20).all()


def test_grids():
    assert code_grid(np.array([5, -1, 99, 7, 8]), CODEBOOK).tolist() == [[5, 0], [23, 7]]
    assert code_grid(np.array([5]), CODEBOOK, 4).tolist() == [[5, 0], [0, 0]]
    oblong = with_center(np.zeros((8, 12, 3), np.uint8), np.full((2, 2, 3), 9, np.uint8))
    assert (oblong[2:6, 3:9] == 9).all()
    assert oblong.sum() == 9 * 4 * 6 * 3

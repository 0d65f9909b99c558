"""`python -m ofa_jax.infer --image_tokenizer=...`: images as answers, from a model at random."""

import dataclasses
import shutil
import sys

import gin
import numpy as np
import pytest
from PIL import Image

import tasks.scenes_images  # noqa: F401  (registers the task)
from ofa_jax.checkpoint import orbax_weights
from ofa_jax.checkpoint.names import to_params
from ofa_jax.cli import inference as inference_entry
from ofa_jax.cli import shell
from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from ofa_jax.data.tasks.card import TaskCard, write_cards
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.metrics.generation import Extractors
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout
from tests.checkpoint.official import SMALL, random_state_dict

INSTRUCTION = "--instruction=what is the complete image? caption: a red bus"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model with 4 codes that makes images of 2 x 2 codes, its codebook, and a photograph."""
    directory = tmp_path_factory.mktemp("files")
    text = TrainedBPE.train(["what is the complete image? caption: a red bus"], num_merges=60)
    layout = VocabLayout(num_text=text.num_text, num_codes=4, num_bins=20, max_image_size=64)
    Tokenizer(text, layout).save(directory / "model")
    config = dataclasses.replace(
        SMALL,
        vocab_size=layout.size,
        padded_vocab_size=None,
        num_codes=4,
        code_image_size=16,
        max_positions=64,
    )
    variables = to_params(random_state_dict(config), config)
    record = orbax_weights.SourceRecord("initialized", "test")
    orbax_weights.write_weights(directory / "model", variables, config, record)
    colours = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3))
    PatchCodebook(np.broadcast_to(colours, (4, 8, 8, 3))).save(directory / "codebook.npz")
    Image.new("RGB", (60, 40), (9, 99, 199)).save(directory / "photo.png")
    return directory


@pytest.fixture
def infer(monkeypatch, tmp_path, files):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        common = (f"--checkpoint={files / 'model'}", f"--image_tokenizer={files / 'codebook.npz'}")
        return inference_entry.run_infer([*common, *map(str, arguments)])

    yield run
    gin.clear_config()


def test_a_task_of_images_writes_one(infer, files, tmp_path, capsys):
    [(task, _)] = lookup("scenes_text_to_image")
    answering = dataclasses.replace(task.answering, decoding={"top_k": 4}, empty_prompts=0.0)
    task = dataclasses.replace(task, answering=answering)
    shutil.copytree(files / "model", tmp_path / "run")
    card = TaskCard.of(task, {"inputs": 32, "targets": 5, "image": 32})
    write_cards(tmp_path / "run", "scenes", [card])
    asked = ("--checkpoint=run", "--task=text_to_image")
    assert infer(*asked, "--field=text=a red bus", "--output=here") == 0
    assert len(colours_of("here/generated.png")) == 4
    assert infer(*asked) == 2
    assert "needs --field=text=TEXT: what the image shows" in capsys.readouterr().err


def colours_of(path):
    """The colours of an image's 2 x 2 squares, each of one colour."""
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (16, 16, 3)
    blocks = pixels.reshape(2, 8, 2, 8, 3).transpose(0, 2, 1, 3, 4).reshape(4, 64, 3)
    assert (blocks == blocks[:, :1]).all()
    return blocks[:, 0]


def brightness(pictures):
    return np.stack([np.ones(len(pictures)), pictures.mean(axis=(1, 2, 3)) / 255], axis=1)


def networks():
    """The more an image is dark, the closer it is to the caption."""
    return Extractors(
        image_embeddings=brightness, text_embeddings=lambda texts: np.array([[1.0, 0.0]])
    )


def test_text_to_image(infer, files, capsys, tmp_path):
    sys.modules["networks_of_a_test"] = sys.modules[__name__]
    status = infer(
        INSTRUCTION,
        "--gin.DECODING={'samples': 3}",
        "--gin.infer_script.infer.extractors='networks_of_a_test:networks'",
    )
    assert status == 0
    names = ["generated.png", "generated_1.png", "generated_2.png"]
    assert capsys.readouterr().out.split() == names
    colours = [colours_of(tmp_path / name) for name in names]
    entries = PatchCodebook.load(files / "codebook.npz").entries[:, 0, 0]
    for squares in colours:
        assert {tuple(c) for c in squares.tolist()} <= {tuple(e) for e in entries.tolist()}
    darkness = [squares.mean() for squares in colours]
    assert darkness[0] == min(darkness)


@pytest.mark.slow  # another model input, so everything is compiled anew
def test_the_middle_of_a_photograph(infer, files, capsys, tmp_path):
    status = infer(
        "--instruction=what is the image in the middle part?",
        f"--image={files / 'photo.png'}",
        "--image_side=48",
        "--output=out",
    )
    assert status == 0
    assert capsys.readouterr().out.strip() == "out/photo_infilled.png"
    pixels = np.asarray(Image.open(tmp_path / "out" / "photo_infilled.png"))
    assert pixels.shape == (48, 48, 3)
    assert (pixels[:12] == (9, 99, 199)).all()
    assert not (pixels[12:36, 12:36] == (9, 99, 199)).all()


def test_what_cannot_be_is_one_line(infer, files, capsys):
    photo = files / "photo.png"
    for arguments, message in (
        ([INSTRUCTION, f"--image={photo}", f"--image={photo}"], "made of one instruction only"),
        ([INSTRUCTION, "--image_tokenizer=no.npz"], "there is no codebook file no.npz"),
        ([INSTRUCTION, "--gin.DECODING={'tok_k': 3}"], "decoding: "),
    ):
        assert infer(*arguments) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    PatchCodebook(np.zeros((5, 8, 8, 3))).save(files / "larger.npz")
    assert infer(INSTRUCTION, f"--image_tokenizer={files / 'larger.npz'}") == 2
    assert "has 5 codes and the model 4" in capsys.readouterr().err

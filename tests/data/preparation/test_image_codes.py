"""Image codes by a VQGAN: the whole command, batches, manifest, what is refused at the start."""

import hashlib
import json

import numpy as np
import pytest

from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.checkpoint.vqgan import to_state_dict
from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.ops.image_tokenizer import PatchCodebook, load_image_tokenizer
from ofa_jax.data.preparation import shards
from ofa_jax.data.preparation.conversion import convert_without_codes
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.preparation import images as image_files
from tests.model.small_vqgan import GUMBEL, params

GOOD = 7


@pytest.fixture
def raw(tmp_path):
    """A directory of images, one of them damaged, and the weights of a tokenizer."""
    directory = tmp_path / "photos"
    directory.mkdir()
    for number in range(GOOD):
        (directory / f"{number}.jpg").write_bytes(image_files.jpeg(40 + number, 32, seed=number))
    (directory / "3b.jpg").write_bytes(image_files.jpeg()[:200])
    weights = {"state_dict": to_state_dict(params(GUMBEL), GUMBEL)}
    write_torch_file(tmp_path / "last.ckpt", weights)
    return tmp_path


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))


def prepare(raw, out, *more, size=16):
    return run_prepare(
        [
            "--source=image_folder",
            f"--images={raw / 'photos'}",
            f"--image_tokenizer={raw / 'last.ckpt'}",
            f"--code_size={size}",
            f"--out={raw / out}",
            "--processes=1",
            "--num_shards=2",
            *more,
        ]
    )


def test_one_command_adds_codes(raw, monkeypatch):
    monkeypatch.setattr(shards, "_ENCODED_AT_ONCE", 2)
    assert prepare(raw, "out") == 0
    manifest = json.loads((raw / "out" / "manifest.json").read_text())
    digest = hashlib.sha256((raw / "last.ckpt").read_bytes()).hexdigest()
    assert manifest["settings"]["image_tokenizer_sha256"] == digest
    records = PreparedSource(str(raw / "out")).open("train")
    assert len(records) == GOOD
    tokenizer = load_image_tokenizer(str(raw / "last.ckpt"))
    settings = ConversionSettings(image_tokenizer=str(raw / "last.ckpt"), code_size=16)
    for number in range(GOOD):
        record = records[number]
        original = (raw / "photos" / f"{number}.jpg").read_bytes()
        example = {"image": original, "image_id": record["image_id"], "type": "image"}
        square = convert_without_codes(example, settings).square
        assert square.shape == (16, 16, 3)
        # SPEC 7.9: the middle part is encoded alone, not cut out of the codes of the whole.
        expected = tokenizer.encode(square[4:12, 4:12]).reshape(-1)
        np.testing.assert_array_equal(record["image_codes"], expected)
    monkeypatch.setattr(shards, "_ENCODED_AT_ONCE", 64)
    assert prepare(raw, "again", "--code_part=middle") == 0
    for name in ("train-00000-of-00002.array_record", "train-00001-of-00002.array_record"):
        assert (raw / "out" / name).read_bytes() == (raw / "again" / name).read_bytes()


@pytest.mark.slow  # two processes start JAX
def test_processes_make_the_same_codes(raw):
    assert prepare(raw, "one") == 0
    assert prepare(raw, "two", "--processes=2") == 0
    for path in (raw / "one").iterdir():
        assert (raw / "two" / path.name).read_bytes() == path.read_bytes()


def test_what_cannot_work_is_refused_at_the_start(raw, capsys):
    def error(*arguments, **options):
        assert prepare(raw, "refused", *arguments, **options) == 2
        assert not (raw / "refused").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    missing = raw / "missing.ckpt"
    assert f"{missing}: no such checkpoint file" in error(f"--image_tokenizer={missing}")
    PatchCodebook(np.zeros((2, 4, 4, 3))).save(raw / "codebook.npz")
    assert "the middle part has 10 pixels per side, no multiple of the 4" in error(
        f"--image_tokenizer={raw / 'codebook.npz'}", size=20
    )
    write_torch_file(raw / "other.ckpt", {"state_dict": {"weight": np.zeros(2, np.float32)}})
    assert "no weights of a VQGAN" in error(f"--image_tokenizer={raw / 'other.ckpt'}")

"""The same image at every door: turned, transparent, deep, cut off; in files, directories, TSVs."""

import base64
import io
import json

import gin
import numpy as np
import pytest
from PIL import Image

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint, initial_variables
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.cli import inference as inference_entry
from ofa_jax.cli import shell
from ofa_jax.data.ops.image import decode_base64
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.inference.images import find_images
from ofa_jax.inference.loading import load
from tests.integration import finetuning_files

SMALL = "--image_side=32"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A converted directory: weights, configuration, vocabulary."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = finetuning_files.write_vocabulary(directory)
    config = finetuning_files.small_config(tokenizer)
    record = SourceRecord("initialized", "random")
    imported = ImportedCheckpoint(initial_variables(config), config, record)
    export_checkpoint(imported, directory, "orbax")
    return directory


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    for name in ("OFA_TRACEBACK", "OFA_VOCAB_DIR", "OFA_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield lambda run, *arguments: run([str(argument) for argument in arguments])
    gin.clear_config()


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def forms_of_one_image(directory) -> list:
    """One image of 96 x 64 pixels in files that all look the same."""
    pixels = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((32, 32), np.uint8))
    image = Image.fromarray(pixels)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    tag = Image.Exif()
    tag[0x0112] = 6
    clear = Image.fromarray(np.dstack([np.minimum(pixels, 250)] * 3 + [np.full_like(pixels, 255)]))
    files = {
        "a.png": saved(image, "PNG"),
        "deep.png": saved(Image.fromarray(pixels.astype(np.uint16) * 257), "PNG"),
        "deep.tif": saved(Image.fromarray(pixels.astype(np.float32) / 255), "TIFF"),
        "turned.png": saved(turned, "PNG", exif=tag),
        # Pillow maps grey TIFF files into memory, and turned ones wrongly, where it has their path.
        "turned.TIF": saved(turned.convert("RGB"), "TIFF", exif=tag),
        "turned.webp": saved(turned.convert("RGB"), "WEBP", exif=tag, lossless=True),
        "opaque.png": saved(clear, "PNG"),
        "IMG_0001": saved(image, "PNG"),
        "portable.pgm": saved(image, "PPM"),
    }
    paths = []
    for name, data in files.items():
        (directory / name).write_bytes(data)
        paths.append(directory / name)
    return paths


def test_files_that_look_the_same_are_the_same_to_the_predictor(model, tmp_path):
    predictor = load(model, image_size=32, decoding=BeamConfig(beam=1, max_len_b=3))
    paths = forms_of_one_image(tmp_path)
    answers = predictor.generate_batch([*paths, *map(Image.open, paths)], ["where?"] * 18)
    assert {answer.score for answer in answers} == {answers[0].score}
    assert {answer.token_ids for answer in answers} == {answers[0].token_ids}
    assert {predictor.region((12, 8, 72, 40), path) for path in paths} == {
        predictor.region((12, 8, 72, 40), np.zeros((64, 96, 3), np.uint8))
    }


def test_a_directory_is_read_whole_and_the_rest_is_counted(command, model, tmp_path, caplog):
    directory = tmp_path / "photos"
    directory.mkdir()
    paths = forms_of_one_image(directory)
    (directory / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (directory / "notes.txt").write_text("no image")
    assert find_images([str(directory)]) == sorted(map(str, [*paths, directory / "b.heic"]))
    assert "1 files are no images and are left out, notes.txt for example" in caplog.text
    out = tmp_path / "out"
    arguments = [f"--image={directory}", f"--checkpoint={model}", f"--output={out}", SMALL]
    assert command(inference_entry.run_infer, *arguments, "--answers=yes,no") == 0
    lines = (out / "predictions" / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(paths)
    assert {(row["log_probability"], tuple(row["image_size"])) for row in rows} == {
        (rows[0]["log_probability"], (96, 64))
    }
    [skipped] = map(json.loads, (out / "skipped.jsonl").read_text().splitlines())
    assert skipped["image"].endswith("b.heic")


def test_eval_decodes_cut_images_and_counts_them(command, model, tmp_path, caplog, capsys):
    data = tmp_path / "data"
    finetuning_files.write_data(data, "refcoco")
    path = next(data.rglob("refcoco_val.tsv"))
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    whole = Image.open(io.BytesIO(decode_base64(rows[1][-1])))
    cut = saved(whole.convert("RGB"), "JPEG", quality=100)
    rows[1][-1] = base64.b64encode(cut[: len(cut) * 3 // 4]).decode()
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    arguments = [
        "--task=refcoco",
        f"--checkpoint={model}",
        f"--data={data}",
        "--batch_size=4",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8, 'image': 32}",
    ]
    out = tmp_path / "out"
    assert command(inference_entry.run_eval, *arguments, f"--output={out}") == 0
    counts = json.loads((out / "metrics.json").read_text())["counts"]["validation"]
    number = finetuning_files.ROWS
    assert counts == {"visual_grounding": {"n": number, "skipped": 0, "truncated_images": 1}}
    assert "1 images are cut off; what there is of them counts" in caplog.text
    gin.clear_config()
    setting = "--gin.eval_script.evaluate.truncated_images='keep'"
    assert command(inference_entry.run_eval, *arguments, f"--output={out}", setting) == 2
    assert "truncated_images must be one of" in capsys.readouterr().err

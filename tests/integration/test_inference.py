"""`python -m ofa_jax.infer` and `python -m ofa_jax.eval` on a small model with random weights."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import gin
import numpy as np
import pytest
from PIL import Image

import tasks.snli_ve  # noqa: F401  (registers the tasks)
from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint, initial_variables
from ofa_jax.checkpoint.orbax_weights import SourceRecord, step_directory
from ofa_jax.checkpoint.tuned import TUNED_FILE, write_tuned
from ofa_jax.cli import inference as inference_entry
from ofa_jax.cli import shell
from ofa_jax.data.tasks.card import TaskCard, write_cards
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.questions import Prediction
from ofa_jax.inference.weights import find_checkpoint, trained_cards
from ofa_jax.model.config import SIZES
from ofa_jax.text.tokenizer import load_tokenizer
from tests.integration import finetuning_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = "--gin.DECODING={'beam': 2, 'max_len_b': 6}"


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    directory = tmp_path_factory.mktemp("photos")
    for name, colour in zip(("a.png", "b.png", "sub/c.png"), finetuning_files.COLOURS):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(finetuning_files.picture(colour))
    return directory


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    monkeypatch.delenv("OFA_TRACEBACK", raising=False)
    monkeypatch.delenv("OFA_VOCAB_DIR", raising=False)
    monkeypatch.delenv("OFA_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    yield lambda run, *arguments: run([str(argument) for argument in arguments])
    gin.clear_config()


def infer(command, *arguments):
    return command(inference_entry.run_infer, *arguments)


def evaluate(command, *arguments):
    return command(inference_entry.run_eval, *arguments)


def test_one_image_prints_its_answer(command, model, photos, capsys):
    status = infer(
        command, f"--image={photos / 'a.png'}", f"--checkpoint={model}", "--answers=yes", SMALL
    )
    assert status == 0
    assert capsys.readouterr().out == "yes\n"


def test_a_decoder_prompt_is_no_part_of_the_answer(command, model, photos, capsys):
    status = infer(
        command,
        f"--image={photos / 'a.png'}",
        f"--checkpoint={model}",
        "--instruction=what color is it?",
        "--answers=red,green square",
        "--gin.infer_script.infer.decoder_prompt='source'",
        SMALL,
    )
    assert status == 0
    assert capsys.readouterr().out.strip() in ("red", "green square")


def test_a_run_says_how_its_model_is_asked(tmp_path, model):
    (tmp_path / "checkpoint_4" / "state").mkdir(parents=True)
    [(task, _)] = lookup("snli_ve")
    tokenizer = load_tokenizer(model)
    card = TaskCard.of(task, {"image": 480, "inputs": 128, "targets": 160})
    write_cards(tmp_path, "snli_ve", [card])
    tuned = tmp_path / TUNED_FILE
    config = dataclasses.replace(SIZES["nano"], vocab_size=70, padded_vocab_size=128, num_codes=4)
    weights = {"params": {"expand": {"bias": np.zeros(2, np.float32)}}}
    write_tuned(tuned, weights, config, frozen=(), base="")
    for checkpoint in (tmp_path, tmp_path / "checkpoint_4", tuned, f"{tuned}@some/base.pt"):
        [found] = trained_cards(str(checkpoint))
        assert found.lengths["image"] == 480
        assert found.answering.decoder_prompt == "source"
        assert found.answering.answers.load() == ("no", "yes", "maybe")
        given = {"caption": "A dog", "hypothesis": "An animal"}
        image = np.zeros((480, 480, 3), np.uint8)
        row = found.row(tokenizer, image, given)
        text = tokenizer.decode(row["encoder_input_tokens"])
        assert text.strip() == 'can image and text1 " a dog " imply text2 " an animal "?'
    assert trained_cards(str(tmp_path / "other" / "deep")) == ()
    (tmp_path / "config.json").write_text('{"tasks": [{"name": "x"}]}')
    with pytest.raises(ValueError, match=r"config\.json .*not describe"):
        trained_cards(str(tmp_path))
    (tmp_path / "metrics.json").write_text('{"run": {"best_step": 4}}')
    (tmp_path / "checkpoint_8" / "state").mkdir(parents=True)
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint_4")
    # The same one is taken where a run is given as a starting point.
    assert step_directory(tmp_path) == tmp_path / "checkpoint_4"


def test_a_box_is_drawn(command, model, photos, tmp_path, capsys, monkeypatch):
    def grounded(self, questions, task, **options):
        assert questions[0].instruction == 'which region does the text " a red car " describe?'
        return [Prediction("<bin_1>", (5.0, 4.0, 30.0, 20.0), -1.0, (7,))]

    monkeypatch.setattr(OFAPredictor, "answer", grounded)
    instruction = 'which region does the text " a red car " describe?'
    status = infer(
        command,
        f"--image={photos / 'a.png'}",
        f"--checkpoint={model}",
        f"--instruction={instruction}",
    )
    assert status == 0
    assert "box: 5.0 4.0 30.0 20.0" in capsys.readouterr().out
    drawn = np.asarray(Image.open(tmp_path / "a_box.png").convert("RGB"))
    scale = drawn.shape[1] / 40
    edge = drawn[:, int(5 * scale)]
    assert ((edge[:, 0] > 200) & (edge[:, 1] < 100)).any(), "the left side of the frame"


def test_a_region_of_the_image_becomes_bins(command, model, photos, monkeypatch, capsys):
    asked = []

    def tokens(self, instructions):
        asked.extend(instructions)
        return original(self, instructions)

    original = OFAPredictor._tokens
    monkeypatch.setattr(OFAPredictor, "_tokens", tokens)
    status = infer(
        command,
        f"--image={photos / 'a.png'}",
        f"--checkpoint={model}",
        "--instruction=what color is it? region: {region}",
        "--region=0,0,20,30",
        SMALL,
    )
    assert status == 0
    # 40 x 30 pixels; the model's input has 32 pixels and 32 bins on them.
    assert asked == ["what color is it? region: <bin_0> <bin_0> <bin_16> <bin_31>"]


BAD = {
    "no image": (["--instruction=what?"], "no image: give --image FILE or DIRECTORY, or --without"),
    "missing": (["--image=nowhere.png"], "--image nowhere.png: no such file or directory"),
    "not an image": (["--image={photos}/../note.txt"], "cannot decode an image of 5 bytes"),
    "empty directory": (["--image={photos}/../empty"], "the directory has no images"),
    "no instruction": (["--image={photos}/a.png", "--instruction= "], "--instruction is empty"),
    "no answers": (["--image={photos}/a.png", "--answers= , "], "--answers: the list is em"),
    "nothing as answers": (
        ["--image={photos}/a.png", "--answers="],
        "--answers: the list is em",
    ),
    "long answer": (
        ["--image={photos}/a.png", "--answers=zzzzzzzzzzzzzzzzz", SMALL],
        "answer 'zzzzzzzzzzzzzzzzz' has",
    ),
    "outside bins": (
        ["--image={photos}/a.png", "--instruction=what? region: <bin_1> <bin_2> <bin_0> <bin_9>"],
        "region <bin_1> <bin_2> <bin_0> <bin_9> is no box of the image",
    ),
    "unknown bin": (
        ["--image={photos}/a.png", "--instruction=what is <bin_99>"],
        "<bin_99> does not exist",
    ),
    "outside pixels": (
        ["--image={photos}/a.png", "--instruction=what? {region}", "--region=0,0,99,9"],
        "region 0,0,99,9 is not inside the image of 40x30 pixels",
    ),
    "region alone": (
        ["--image={photos}/a.png", "--region=0,0,9,9"],
        "--region x0,y0,x1,y1 and {region} in the instruction belong together",
    ),
    "large batch": (["--image={photos}/a.png", "--batch_size=1000000"], "from 1 to 65,536, got 10"),
    "many beams": (
        ["--image={photos}/a.png", "--gin.DECODING={'beam': 1000000}"],
        "decoding.beam must be a whole number from 1 to 1,024, got 1000000",
    ),
    "long answers": (
        ["--image={photos}/a.png", "--gin.DECODING={'max_len_b': 10000000}"],
        "decoding.max_len_b must be a whole number from 0 to 1,048,576",
    ),
    "no model": (
        ["--image={photos}/a.png", "--checkpoint=gone"],
        "gone: no such file or directory",
    ),
    "unknown setting": (
        ["--image={photos}/a.png", "--gin.DECODING={'beams': 2}"],
        "decoding has no setting 'beams'; here it is beam",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(name, command, model, photos, capsys):
    arguments, message = BAD[name]
    (photos.parent / "note.txt").write_text("hello")
    (photos.parent / "empty").mkdir(exist_ok=True)
    given = [argument.replace("{photos}", str(photos)) for argument in arguments]
    if not any("--checkpoint" in argument for argument in given):
        given.append(f"--checkpoint={model}")
    assert infer(command, *given) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("error: ")
    assert message in printed


def test_without_checkpoint_and_quickstart(command, photos, capsys):
    assert infer(command, f"--image={photos / 'a.png'}") == 2
    assert "no checkpoint: give --checkpoint" in capsys.readouterr().err


def test_a_directory_is_streamed_and_resumed(command, model, photos, tmp_path, caplog, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    arguments = [
        f"--image={photos}",
        f"--checkpoint={model}",
        f"--output={out}",
        "--answers=yes,no",
        "--batch_size=1",
        SMALL,
    ]
    assert infer(command, *arguments) == 0
    path = out / "predictions" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["example_id"].rsplit("/", 1)[-1] for row in rows] == ["a.png", "b.png", "c.png"]
    assert {row["prediction_text"] for row in rows} <= {"yes", "no"}
    assert "1 of 4 images were bad" in caplog.text
    [skipped] = (out / "skipped.jsonl").read_text().splitlines()
    assert "broken.png" in json.loads(skipped)["image"]
    assert (out / "report.html").is_file()
    whole = path.read_text()
    path.write_text("".join(f"{line}\n" for line in whole.splitlines()[:2]) + '{"cut')
    (out / "skipped.jsonl").unlink()  # as if the process had been killed after two images
    assert infer(command, *arguments) == 0
    again = [json.loads(line)["example_id"] for line in path.read_text().splitlines()]
    assert len(again) == len(set(again)) == 3
    # A file that sorts first, an edited one, a repaired one and one that is gone.
    (photos / "0.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes() + b"\n")
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "sub" / "c.png").unlink()
    assert infer(command, *arguments) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = [row["example_id"].rsplit("/", 1)[-1] for row in rows]
    assert names == ["0.png", "a.png", "b.png", "broken.png"]
    # All four show the same, so they have the same answer.
    assert len({(row["prediction_text"], row["log_probability"]) for row in rows}) == 1
    assert (out / "skipped.jsonl").read_text() == ""
    assert infer(command, *arguments, "--instruction=another") == 2
    assert "--output" in capsys.readouterr().err
    assert infer(command, *arguments, "--instruction=another", "--overwrite") == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["input_text"] for row in rows} == {"another"}


def test_eval_writes_everything_and_goes_on(command, model, tmp_path, capsys):
    finetuning_files.write_data(tmp_path / "data", "refcoco")
    arguments = [
        "--task=refcoco",
        f"--checkpoint={model}",
        f"--data={tmp_path / 'data'}",
        f"--output={tmp_path / 'out'}",
        "--batch_size=4",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8, 'image': 32}",
    ]
    assert evaluate(command, *arguments, "--num_examples=4") == 0
    assert evaluate(command, *arguments) == 0
    out = tmp_path / "out"
    results = json.loads((out / "metrics.json").read_text())
    entry = results["tasks"]["visual_grounding"]
    assert entry["n"] == finetuning_files.ROWS
    assert entry["primary"] == "accuracy_at_0.5"
    submission = out / "submissions" / "visual_grounding" / "validation_predict.json"
    boxes = json.loads(submission.read_text())
    assert [item["uniq_id"] for item in boxes] == [str(1000 + n) for n in range(6)]
    rows = [
        json.loads(line)
        for line in (out / "predictions" / "visual_grounding.jsonl").read_text().splitlines()
    ]
    for row, item in zip(rows, boxes):
        if row["predicted_box"] is not None:
            # Pixels of the stored image, 40 x 30, not of the model's 32 x 32.
            scale = np.array([40, 30, 40, 30]) / 32
            expected = np.array(row["predicted_box"]) * scale
            np.testing.assert_allclose(item["box"], expected, atol=0.01)
    assert (out / "report.html").is_file()
    capsys.readouterr()
    path = tmp_path / "data" / "refcoco_val.tsv"
    shutil.copy(path, path.with_name("refcoco_testA.tsv"))
    for change, named in (
        ("--gin.RANDOM_SEED=3", "sampling_seed was 0, now it is 3"),
        ("--split=testA", "refcoco_testA.tsv"),
    ):
        assert evaluate(command, *arguments, change) == 2
        assert named in capsys.readouterr().err
    # Another state of the data.
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert evaluate(command, *arguments) == 2
    assert "refcoco_val.tsv has changed" in capsys.readouterr().err
    assert evaluate(command, *arguments, "--overwrite") == 0
    assert json.loads((out / "metrics.json").read_text())["tasks"]["visual_grounding"]["n"] == 4
    # Fewer examples are a part of what is there.
    assert evaluate(command, *arguments, "--num_examples=2") == 0
    assert json.loads((out / "metrics.json").read_text())["tasks"]["visual_grounding"]["n"] == 2


def test_eval_names_what_is_missing(command, model, tmp_path, capsys):
    finetuning_files.write_data(tmp_path / "data", "refcoco")
    common = [f"--checkpoint={model}", f"--output={tmp_path / 'o'}", f"--data={tmp_path / 'data'}"]
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8, 'image': 32}"
    for arguments, message in (
        (["--task=refcoco"], "is not the directory of a run and does not say inputs and targets"),
        (["--task=refcok", lengths], "no task or mixture named 'refcok'; did you mean refcoco"),
        (["--task=refcoco", lengths, "--split=testA"], "refcoco_testA.tsv does not exist"),
        ([lengths], "--task is missing: give --task=..."),
    ):
        assert evaluate(command, *common, *arguments) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
def test_two_devices_answer_as_one(model, photos, tmp_path):
    """Batches are split over the devices of a process; the lines are the same."""
    finetuning_files.write_data(tmp_path / "data", "refcoco")
    found = {}
    for count in (1, 2):
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("OFA_")
        } | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        command = [
            sys.executable,
            "-m",
            "ofa_jax.eval",
            "--task=refcoco",
            f"--checkpoint={model}",
            f"--data={tmp_path / 'data'}",
            f"--output={tmp_path / str(count)}",
            "--batch_size=4",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8, 'image': 32}",
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        rows = (tmp_path / str(count) / "predictions" / "visual_grounding.jsonl").read_text()
        found[count] = [json.loads(line) for line in rows.splitlines()]
    for one, two in zip(found[1], found[2], strict=True):
        assert one["prediction_text"] == two["prediction_text"]
        assert one["log_probability"] == pytest.approx(two["log_probability"], abs=1e-4)

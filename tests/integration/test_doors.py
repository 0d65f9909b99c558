"""One model, the same questions at every door: `load`, `infer`, `eval`, evaluation in training.

A short run of the quickstart's settings stands for the trained model: what is compared are answers,
right or wrong. Named by OFA_QUICKSTART_RUN, the directory of a whole run with the vocabulary of the
quickstart is asked as well, by `load` and `eval`.
"""

import json
import os
import pathlib

import gin
import numpy as np
import pytest
from PIL import Image

import mixtures.scenes  # noqa: F401  (registers the tasks)
import ofa_jax
from ofa_jax.cli import entry, shell
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import IdRanges
from ofa_jax.evaluation.evaluate import evaluate
from ofa_jax.inference import infer as infer_module
from ofa_jax.inference.questions import Question
from ofa_jax.vocab import BOS_ID, EOS_ID

COUNT = 64
GREEDY = BeamConfig(beam=1, max_len_b=19)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run: 30 steps, then its own evaluation of 64 examples per task."""
    directory = tmp_path_factory.mktemp("doors") / "run"
    settings = {
        "MODEL_DIR": repr(str(directory)),
        "TRAIN_STEPS": 30,
        "WARMUP_STEPS": 5,
        "BATCH_SIZE": 16,
        "inputs.DatasetConfig.buckets": {},
        "inputs.DatasetConfig.num_workers": 0,
        "evaluation.EvaluationConfig.batch_size": 32,
        "evaluation.EvaluationConfig.final_num_examples": COUNT,
        "evaluation.EvaluationConfig.extra_splits": {"compositions": 8},
        "evaluation.EvaluationConfig.unseen_task_seeds": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "set_up_process", lambda: None)
        files = ("gin_configs/runs/quickstart.gin", "tests/micro.gin")
        arguments = [f"--gin_file={file}" for file in files]
        arguments += [f"--gin.{name}={value}" for name, value in settings.items()]
        status = entry.run_train(arguments)
    gin.clear_config()
    assert status == 0
    return directory


@pytest.fixture(scope="module")
def in_training(run):
    """Rows of the evaluation that ended the training, by task."""
    return rows_of(run)


def test_further_splits_have_directories_of_their_own(run, in_training):
    found = rows_of(run / "splits" / "compositions")
    assert sorted(found) == sorted(set(in_training) - {"grounded_vqa"})
    assert {len(rows) for rows in found.values()} == {8}
    assert "compositions" in found["captioning"][0]["example_id"]


@pytest.fixture(scope="module")
def by_eval(run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("eval")
    for mixture in ("scenes_quickstart", "scenes_grounded_vqa"):
        evaluate(
            output_dir=str(directory / mixture),
            mixture_or_task_name=mixture,
            checkpoint=str(run),
            num_examples=COUNT,
            batch_size=32,
        )
    return rows_of(directory / "scenes_quickstart") | rows_of(directory / "scenes_grounded_vqa")


@pytest.fixture(scope="module")
def model(run):
    return ofa_jax.load(run)


def rows_of(directory):
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (directory / "predictions").glob("*.jsonl")
    }


def record(row):
    """The image of a row: scenes are drawn again."""
    from ofa_jax.data.tasks.registration import lookup

    [(task, _)] = lookup("scenes_vqa")
    return task.source.open("validation")[row["index"]]["image"]


def question(family, row):
    """A row as someone would ask it by hand, by the name of the task."""
    text = row["input_text"]
    quoted = text.partition('"')[2].rpartition('"')[0].strip()
    fields = {
        "visual_grounding": {"caption": quoted},
        "image_text_matching": {"caption": quoted},
        "text_infilling": {"text": quoted},
        "vqa": {"question": text},
        "grounded_vqa": {"question": text.partition(" region:")[0]},
    }
    region = row.get("true_box") if family in ("grounded_captioning", "grounded_vqa") else None
    image = None if family == "text_infilling" else record(row)
    return Question(image, "", region, fields.get(family, {}))


FAMILIES = (
    "visual_grounding",
    "grounded_captioning",
    "vqa",
    "image_text_matching",
    "captioning",
    "detection",
    "image_infilling",
    "text_infilling",
    "grounded_vqa",
)


def assert_same(text, box, log_probability, row):
    assert text == row["prediction_text"]
    if "predicted_box" in row:
        assert (box is None) == (row["predicted_box"] is None)
        if box is not None:
            np.testing.assert_allclose(box, row["predicted_box"], atol=1e-3)
    assert log_probability == pytest.approx(row["log_probability"], abs=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_eval_answers_as_the_run_did(family, in_training, by_eval):
    assert len(in_training[family]) == COUNT
    for one, two in zip(in_training[family], by_eval[family], strict=True):
        assert_same(one["prediction_text"], one.get("predicted_box"), one["log_probability"], two)
        for name in ("example_id", "input_text", "score", "verdict", "target_text"):
            assert one[name] == two[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_load_answers_by_the_name_of_a_task(family, model, in_training):
    rows = in_training[family]
    for start in range(0, COUNT, 32):
        chosen = rows[start : start + 32]
        answers = model.answer([question(family, row) for row in chosen], family)
        for answer, row in zip(answers, chosen, strict=True):
            assert_same(answer.text, answer.box, answer.log_probability, row)
            if family == "detection":
                found = [label for _, label in answer.objects]
                assert found == [item["label"] for item in row["predicted_objects"]]


@pytest.mark.parametrize(
    ("family", "instruction"),
    [
        ("captioning", "what does the image describe?"),
        ("detection", " what are the objects in the image?"),
        ("grounded_captioning", "  what does the region describe? region: {region}"),
        ("grounded_vqa", None),
        ("visual_grounding", None),
    ],
)
def test_a_free_instruction_is_the_trained_prompt(family, instruction, model, in_training):
    """Spaces as given reach the tokenizer, so the prompt of every task can be written by hand."""
    rows = in_training[family][:32]
    questions = []
    for row in rows:
        text = instruction or row["input_text"]
        if instruction is None and family == "grounded_vqa":
            text = text.partition(" region:")[0] + " region: {region}"
        region = row["true_box"] if "{region}" in text else None
        questions.append(Question(record(row), text, region))
    for answer, row in zip(model.answer(questions, decoding=GREEDY), rows, strict=True):
        assert answer.text == row["prediction_text"]
        assert answer.log_probability == pytest.approx(row["log_probability"], abs=2e-4)


def test_spaces_reach_the_tokenizer(model):
    encode = model.tokenizer.encode
    for written, read in (("what?", " what?"), (" what?", " what?"), ("  what? ", "  what? ")):
        ids = [i for i in model._tokens([written])[0].tolist() if i]
        assert ids == [BOS_ID, *encode(read), EOS_ID]


@pytest.mark.parametrize("family", ["captioning", "detection", "image_infilling"])
def test_infer_over_a_directory_answers_as_eval(family, run, by_eval, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "images"
    directory.mkdir()
    rows = by_eval[family]
    for row in rows:
        Image.fromarray(record(row)).save(directory / f"{row['index']:03d}.png")
    infer_module.infer(
        task=family, checkpoint=str(run), images=[str(directory)], output_dir="out", batch_size=32
    )
    answers = rows_of(tmp_path / "out")["answers"]
    for answer, row in zip(answers, rows, strict=True):
        assert_same(
            answer["prediction_text"], answer.get("predicted_box"), answer["log_probability"], row
        )


@pytest.mark.parametrize("family", ["visual_grounding", "grounded_captioning", "vqa"])
def test_infer_of_one_image_answers_as_eval(family, run, by_eval, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for row in by_eval[family][:2]:
        asked = question(family, row)
        Image.fromarray(asked.image).save("image.png")
        [answer] = infer_module.infer(
            task=family,
            checkpoint=str(run),
            images=["image.png"],
            region=asked.region,
            fields=asked.fields,
        )
        assert_same(answer.text, answer.box, answer.log_probability, row)
        assert capsys.readouterr().out.splitlines()[0] == answer.text


def test_the_best_answers_come_with_their_probabilities(model, in_training):
    row = in_training["vqa"][0]
    asked = question("vqa", row)
    [found] = model.answer([asked], "vqa", best=3)
    every = [found, *found.alternatives]
    assert len(every) == 3
    assert len({one.text for one in every}) == 3
    assert [one.score for one in every] == sorted((one.score for one in every), reverse=True)
    assert 0 < sum(one.probability for one in every) <= 1
    [only] = model.answer([asked], "vqa", answers=["yes"])
    assert only.text == "yes"
    assert only.log_probability == pytest.approx(0.0, abs=1e-6)
    [ranked] = model.answer([asked], "vqa", answers=["yes", "no"], method="candidates", best=2)
    total = sum(one.probability for one in (ranked, *ranked.alternatives))
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_doubtful_box_counts_as_not_found(model, in_training):
    asked = question("visual_grounding", in_training["visual_grounding"][0])
    layout = model.tokenizer.layout
    options = {
        "constraint": IdRanges(((layout.bin_start, layout.size),)),
        "decoding": BeamConfig(beam=1, min_len=4, max_len_b=4),
    }
    [found] = model.answer([asked], "visual_grounding", **options)
    assert found.box is not None
    limit = found.box_probability * 1.01
    options["min_box_probability"] = limit
    [doubtful] = model.answer([asked], "visual_grounding", **options)
    assert doubtful.box is None
    assert doubtful.text == found.text


@pytest.mark.parametrize(
    ("task", "asked", "message"),
    [
        ("grounding", Question(np.zeros((8, 8, 3), np.uint8)), "no task of this model; there are"),
        ("captioning", Question(None), "reads an image"),
        ("vqa", Question(np.zeros((8, 8, 3), np.uint8)), "needs 'question'"),
        (
            "captioning",
            Question(np.zeros((8, 8, 3), np.uint8), fields={"question": "what?"}),
            "has no field 'question'",
        ),
        ("captioning", Question(np.zeros((8, 8, 3), np.uint8), "what?"), "its own instruction"),
        (
            "grounded_captioning",
            Question(np.zeros((8, 8, 3), np.uint8), region=(0, 0, 9, 4)),
            "not inside the image of 8x8 pixels",
        ),
        ("", Question(np.zeros((8, 8, 3), np.uint8), "where? {region}"), "belong together"),
    ],
)
def test_bad_questions(model, task, asked, message):
    with pytest.raises(ValueError, match=message):
        model.answer([asked], task)


@pytest.mark.slow
@pytest.mark.skipif("OFA_QUICKSTART_RUN" not in os.environ, reason="OFA_QUICKSTART_RUN is not set")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_quickstart_answers_by_load_as_it_did(family):
    directory = os.environ["OFA_QUICKSTART_RUN"]
    model = ofa_jax.load(directory)

    rows = rows_of(pathlib.Path(directory))[family][:COUNT]
    for start in range(0, COUNT, 32):
        chosen = rows[start : start + 32]
        answers = model.answer([question(family, row) for row in chosen], family)
        for answer, row in zip(answers, chosen, strict=True):
            assert_same(answer.text, answer.box, answer.log_probability, row)

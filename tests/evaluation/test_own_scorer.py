"""A task that brings its scorer and its submission format: the same score through every door."""

import dataclasses
import json

import numpy as np
import pytest
import seqio

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint, initial_variables
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.registration import add_task, lookup
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.evaluation import scorers
from ofa_jax.evaluation.evaluate import evaluate
from ofa_jax.evaluation.run_evaluation import EvaluationConfig, RunEvaluation
from ofa_jax.evaluation.submission import write_submission
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.layout import MeshLayout
from tests.data.batches.numbered import Numbered, make_task, small_tokenizer
from tests.integration import finetuning_files

LENGTHS = {"inputs": 24, "targets": 12, "image": 32}
COUNT = 5
MORE = [{"captions": ["red"]}, {"captions": ["red", "green"]}]


def letters(targets, predictions):
    """How many letters an answer has, and whether it has as many as the target."""
    pairs = zip(predictions, targets)
    return {
        "letters": sum(map(len, predictions)) / len(targets),
        "as_long": [float(len(said) == len(true)) for said, true in pairs],
    }


def as_long(targets, predictions):
    return {"as_long": letters(targets, predictions)["as_long"]}


def for_server(row):
    return {"id": row["example_id"], "colour": row["prediction_text"]}


@dataclasses.dataclass(frozen=True)
class Sized:
    """Images of the model's size."""

    def __call__(self, example, rng):
        del rng
        side = example["model_image_size"]
        return {**example, "image": np.zeros((side, side, 3), np.uint8)}


@pytest.fixture(scope="module")
def own():
    return add_task(
        "own_letters",
        "[IMAGE:image] which one is it? -> [TEXT:caption]",
        family="letters",
        source=Numbered(9),
        tokenizer=small_tokenizer,
        prepare=[Sized()],
        splits=("train", "validation"),
        scorer=letters,
        answering=Answering(submission=for_server, decoding={"beam": 1, "max_len_b": 6}),
    )


@pytest.fixture(scope="module")
def weights():
    config = finetuning_files.small_config(small_tokenizer())
    return ImportedCheckpoint(initial_variables(config), config, SourceRecord("random", "seed 0"))


def test_eval_scores_and_submits_as_the_task_says(own, weights, tmp_path):
    small_tokenizer().save(tmp_path / "model")
    export_checkpoint(weights, tmp_path / "model", "orbax")
    results = evaluate(
        output_dir=str(tmp_path / "out"),
        mixture_or_task_name="own_letters",
        checkpoint=str(tmp_path / "model"),
        num_examples=COUNT,
        batch_size=4,
        task_feature_lengths=LENGTHS,
    )
    rows = [
        json.loads(line)
        for line in (tmp_path / "out/predictions/letters.jsonl").read_text().splitlines()
    ]
    said = [row["prediction_text"] for row in rows]
    entry = results["tasks"]["letters"]
    assert entry["primary"] == "letters"
    assert entry["letters"] == sum(map(len, said)) / COUNT
    assert entry["n"] == COUNT
    assert {(row["score"], row["verdict"]) for row in rows} == {(None, "")}
    submission = tmp_path / "out/submissions/letters/validation_predict.json"
    expected = [{"id": f"validation-{n}", "colour": text} for n, text in enumerate(said)]
    assert json.loads(submission.read_text()) == expected
    # The same model, evaluated in training.
    tasks = TaskSet((own,), (1.0,), (), LENGTHS, small_tokenizer())
    config = EvaluationConfig(batch_size=4, num_examples=COUNT)
    native = RunEvaluation(OFA(weights.config), tasks, config, MeshLayout.local())
    values = native.during_training(weights.variables)
    assert values == {f"eval/letters/{name}": entry[name] for name in ("letters", "as_long")}


def test_seqio_calls_the_function_of_the_task(own):
    [score] = seqio.get_mixture_or_task("own_letters").metric_fns
    examples = [{"caption": text} for text in ("red", "green")]
    assert score(examples, ["red", "no"]) == {"letters": 2.5, "as_long": 0.5}
    assert lookup("own_letters") == [(own, 1.0)]


def test_numbers_per_example_judge_the_rows():
    task = make_task("judged", " a -> [TEXT:caption]", scorer=as_long)
    examples = [{"caption": text} for text in ("red", "blue", "gray")]
    result = scorers.score(task, ["one", "four", "no"], examples)
    assert result.metrics == {"as_long": pytest.approx(2 / 3)}
    assert result.verdicts == ["right", "right", "wrong"]
    assert result.baseline == pytest.approx(1 / 3), "'red', given for all"


def test_a_function_may_ask_for_the_examples():
    def among(targets, predictions, examples):
        del targets
        return {"among": [p in e["captions"] for p, e in zip(predictions, examples)]}

    task = make_task("among", " a -> [TEXT:captions]", scorer=among)
    assert scorers.score(task, ["green", "green"], MORE).scores == [0.0, 1.0]


def test_boxes_and_wrapped_numbers():
    def missing(targets, predictions):
        assert all(target.shape == (4,) for target in targets)
        return {"missing": seqio.metrics.Scalar(sum(box is None for box in predictions))}

    task = make_task("boxed", " a -> [BOX:region]", scorer=missing)
    result = scorers.score(task, [None, np.ones(4)], [{"region": [1, 1, 2, 2]}] * 2)
    assert result.metrics == {"missing": 1.0}
    assert result.baseline is None
    assert "baseline" not in result.entry()


def test_without_a_scorer_an_answer_equals_its_target():
    task = make_task("plain", " a -> [TEXT:caption]")
    scorers.check(task)
    result = scorers.score(task, ["red", "rd"], [{"caption": " red"}, {"caption": "red"}])
    assert result.entry() == {"exact_match": 0.5, "primary": "exact_match", "baseline": 1.0, "n": 2}


@pytest.mark.parametrize(
    "returned", [0.5, {}, {"a": "high"}, {"a": [1.0]}], ids=["number", "none", "text", "short"]
)
def test_what_is_no_score_is_refused(returned):
    task = make_task("bad", " a -> [TEXT:caption]", scorer=lambda targets, predictions: returned)
    with pytest.raises(ValueError, match=r"task 'bad': .*metric function"):
        scorers.score(task, ["a", "b"], [{"caption": "a"}] * 2)


def test_unknown_names_are_refused_before_anything_is_predicted():
    with pytest.raises(ValueError, match=r"task 'lost': .*scorer 'bleurt'; .*exact_match"):
        scorers.check(make_task("lost", scorer="bleurt"))
    with pytest.raises(ValueError, match=r"task 'lost': .*format 'xml'"):
        scorers.check(make_task("lost", answering=Answering(submission="xml")))


def test_a_card_holds_no_function(own, tmp_path):
    card = TaskCard.of(own, LENGTHS).to_json()
    assert TaskCard.from_json(json.loads(json.dumps(card))).answering.submission == ""
    assert write_submission(tmp_path / "a.json", for_server, []) == 0

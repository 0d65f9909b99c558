"""What a run keeps of its final evaluation: all that was scored, and scores in its history."""

import json
import types

from ofa_jax.evaluation.run_evaluation import EvaluationConfig, RunEvaluation
from ofa_jax.provenance import provenance
from ofa_jax.runs.story import final_scores


def test_a_task_of_several_seeds_keeps_the_predictions_of_all(tmp_path):
    directory = tmp_path / "predictions"
    directory.mkdir()

    def score(task, split, count, name, *, seed, root):
        (root / "predictions" / f"{name}.jsonl").write_text(json.dumps({"seed": seed}) + "\n")
        return types.SimpleNamespace(result=None)

    evaluation = RunEvaluation(None, None, EvaluationConfig(unseen_task_seeds=3), None, seed=5)
    evaluation._unseen(types.SimpleNamespace(family="grounded_vqa"), score, tmp_path)
    assert [path.name for path in directory.iterdir()] == ["grounded_vqa.jsonl"]
    lines = (directory / "grounded_vqa.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [5, 6, 7]


def test_final_scores_have_the_names_of_those_during_training():
    entry = {"n": 512, "accuracy": 0.9, "primary": "accuracy", "baseline": 0.1, "values": [0.9]}
    assert final_scores({"vqa": entry}) == {"eval/vqa/accuracy": 0.9}


def test_what_made_a_result_is_named():
    facts = provenance()
    assert facts["versions"].startswith("ofa_jax ")
    assert "jax 0." in facts["versions"]
    assert facts["command"]

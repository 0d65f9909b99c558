"""Files and lines of a run: the metrics log across restarts, changed rates, changed settings."""

import json
import logging

import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax import atomic
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.runs import event_files
from ofa_jax.runs import log as run_log
from ofa_jax.runs import tasks as run_tasks


def steps_of(log):
    return [json.loads(line)["step"] for line in log.path.read_text().splitlines()]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    log = run_log.RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')  # cut off by a kill
    again = run_log.RunLog(tmp_path, 2)
    assert steps_of(again) == [1, 2]
    before = json.loads(again.path.read_text().splitlines()[-1])["time"]
    assert again.seconds >= before
    again.write(3, {"loss": 0.1})
    again.close()
    assert steps_of(again) == [1, 2, 3]
    assert json.loads(again.path.read_text().splitlines()[-1])["time"] >= before
    fresh = run_log.RunLog(tmp_path, 0)
    fresh.close()
    assert steps_of(fresh) == []
    assert list((tmp_path / "tensorboard").glob("events*"))


def logged_steps(directory):
    """Steps with a loss, by TensorFlow's own reader."""
    import tensorflow as tf

    return sorted(
        event.step
        for path in directory.glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        if any(value.tag == "loss" for value in event.summary.value)
    )


def test_events_after_the_checkpoint_are_dropped(tmp_path):
    log = run_log.RunLog(tmp_path, 0)
    for step in (1, 200, 70_000):
        log.write(step, {"loss": 1.0})
    log.close()
    directory = tmp_path / "tensorboard"
    [events] = directory.iterdir()
    with events.open("ab") as file:
        file.write(b"\x40" + bytes(20))  # cut off by a kill
    again = run_log.RunLog(tmp_path, 200)
    again.write(201, {"loss": 0.5})
    again.close()
    assert logged_steps(directory) == [1, 200, 201]
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert event_files.purge(directory, 201) == 0
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert event_files.purge(tmp_path / "none", 0) == 0


def test_progress_in_a_log_names_step_eta_and_rate(caplog):
    bar = run_log.TrainingProgress(100, 20)
    with caplog.at_level(logging.INFO, logger="ofa_jax"):
        bar.update(40, {"loss": 1.25, "examples_per_second": 512.3, "data_wait": 0.034})
        bar.close()
    line = caplog.messages[-1]
    assert line.startswith("train: 40/100 steps, loss ")
    assert "loss 1.250, 512 examples/s, data wait 3%, " in line
    assert ", ETA " in line


def test_rates_are_changed_by_task_or_family():
    found = lookup("scenes_pretrain")
    changed = run_tasks.change_rates(found, {"vqa": 7, "scenes_detection": 0.0})
    assert {task.family: rate for task, rate in changed}["vqa"] == pytest.approx(7)
    assert "detection" not in {task.family for task, _ in changed}
    others = [(task, rate) for task, rate in found if task.family not in ("vqa", "detection")]
    assert [pair for pair in changed if pair[0].family != "vqa"] == others
    assert run_tasks.change_rates(found, {}) == found
    # A family stands for all its variants, which keep their proportions; a variant for itself.
    found = lookup("scenes_quickstart")
    rates = {task.variant: rate for task, rate in found}
    changed = {t.variant: r for t, r in run_tasks.change_rates(found, {"vqa": 7})}
    two, before = ((of["vqa_together"], of["vqa_apart"]) for of in (changed, rates))
    assert sum(two) == pytest.approx(7)
    assert two[0] / two[1] == pytest.approx(before[0] / before[1])
    changed = {t.variant: r for t, r in run_tasks.change_rates(found, {"vqa_apart": 7})}
    assert changed == {**rates, "vqa_apart": 7}


BEFORE = "# Macros:\n# ====\nRANDOM_SEED = 0\nTRAIN_STEPS = 10\nx.y = \\\n    {'a': 1}\n"


def test_a_finished_run_refuses_other_settings(tmp_path, caplog):
    changed = BEFORE.replace("RANDOM_SEED = 0", "RANDOM_SEED = 1")
    check = run_tasks.refuse_other_settings
    check(tmp_path, BEFORE, 10, 10)  # nothing there yet
    (tmp_path / "config.gin").write_text(BEFORE)
    check(tmp_path, BEFORE, 10, 10)
    check(tmp_path, BEFORE.replace("\\\n   ", ""), 10, 10)  # only the lines are broken differently
    check(tmp_path, changed, 10, 0)  # nothing was trained
    with pytest.raises(ValueError, match=r"other settings .*RANDOM_SEED = 1"):
        check(tmp_path, changed, 10, 10)
    with caplog.at_level(logging.WARNING, logger="ofa_jax"):
        check(tmp_path, changed, 10, 5)
    assert caplog.messages == ["settings differ from those this run began with: RANDOM_SEED = 1"]


def test_json_is_replaced_at_once(tmp_path):
    atomic.write_json(tmp_path / "metrics.json", {"a": 1})
    atomic.write_json(tmp_path / "metrics.json", {"a": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]

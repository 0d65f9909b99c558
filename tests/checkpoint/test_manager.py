"""Checkpoints of a run: layout, restoring, damage, sudden death, refusals."""

import collections
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ofa_jax.checkpoint.errors import (
    CheckpointError,
    CheckpointStructureError,
    ModelMismatchError,
)
from ofa_jax.checkpoint.manager import CheckpointManager, readable_size
from ofa_jax.training.state import from_checkpoint_tree, to_checkpoint_tree
from tests.checkpoint.train_states import make_state

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = {"model": {"width": 8, "stage_blocks": (1, 2)}, "vocabulary": {"size": 20}}


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def save(directory, *steps, **options):
    with CheckpointManager(directory, **options) as manager:
        for step in steps:
            manager.save(step, to_checkpoint_tree(make_state(step)))
        manager.wait()
        return manager.steps()


def damage(directory, step):
    """Cuts the data files in half, as a full disk or an interrupted copy does."""
    for path in (directory / f"checkpoint_{step}" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_layout_and_round_trip(tmp_path):
    state = make_state(40)
    with CheckpointManager(tmp_path, config=CONFIG) as manager:
        assert manager.restore_latest(to_checkpoint_tree(state)) is None
        manager.save(40, to_checkpoint_tree(state), dataset_state={"next_index": 40})
        manager.save(40, to_checkpoint_tree(make_state(1)))  # there already: left alone
        manager.wait()
        assert (tmp_path / "checkpoint_40" / "state" / "manifest.ocdbt").exists()
        assert (tmp_path / "checkpoint_40" / "dataset" / "train_ds-000-of-001.json").exists()
        assert manager.dataset_state(40) == {"next_index": 40}
    with CheckpointManager(tmp_path, config=CONFIG) as manager:
        template = jax.eval_shape(lambda: make_state(0))
        step, tree = manager.restore_latest(to_checkpoint_tree(template))
    assert step == 40
    assert_equal(from_checkpoint_tree(tree, template), state)


def test_arrays_may_be_donated_after_save(tmp_path):
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.zeros((1000, 1000))
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, {"target": {"a": array}, "state": {"step": jnp.int32(1)}})
        for _ in range(5):
            array = change(array)
        array.block_until_ready()
        manager.wait()
        _, tree = manager.restore_latest({"target": {"a": array}, "state": {"step": jnp.int32(0)}})
    assert not tree["target"]["a"].any()


def test_keeps_the_newest_and_the_best(tmp_path):
    assert save(tmp_path / "newest", 1, 2, 3, 4, keep=2) == [3, 4]
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.1}
    for mode, best in (("max", 2), ("min", 5)):
        options = {"keep": 1, "best_metric": "score", "best_mode": mode}
        with CheckpointManager(tmp_path / mode, **options) as manager:
            for step, score in scores.items():
                metrics = None if score is None else {"score": score, "other": 1}
                manager.save(step, to_checkpoint_tree(make_state(step)), metrics=metrics)
                manager.wait()
            assert manager.steps() == sorted({best, 5})
        with CheckpointManager(tmp_path / mode, **options) as manager:
            assert manager.best_step() == best


def test_restores_into_shardings(tmp_path):
    save(tmp_path, 7)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())
    tree = to_checkpoint_tree(make_state())
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore(7, tree, jax.tree.map(lambda _: sharding, tree))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))


def test_average_is_optional_in_both_directions(tmp_path):
    with CheckpointManager(tmp_path / "with") as manager:
        manager.save(3, to_checkpoint_tree(make_state(3)))
        manager.wait()
        template = make_state(ema=False)
        tree = manager.restore(3, to_checkpoint_tree(template))
        assert_equal(from_checkpoint_tree(tree, template), make_state(3, ema=False))
    with CheckpointManager(tmp_path / "without") as manager:
        manager.save(3, to_checkpoint_tree(make_state(3, ema=False)))
        manager.wait()
        tree = to_checkpoint_tree(make_state())
        tree = manager.restore(3, tree, jax.tree.map(lambda x: x.sharding, tree))
        assert_equal(from_checkpoint_tree(tree, make_state()), make_state(3))


@pytest.mark.parametrize("kind", ["truncated", "half copied"])
def test_falls_back_to_the_previous_checkpoint(tmp_path, caplog, kind):
    save(tmp_path, 10, 20, keep=5)
    if kind == "truncated":
        damage(tmp_path, 20)
    else:
        shutil.rmtree(tmp_path / "checkpoint_20" / "state")
    template = to_checkpoint_tree(make_state())
    with CheckpointManager(tmp_path, keep=5) as manager:
        step, tree = manager.restore_latest(template)
        assert step == 10
        assert_equal(from_checkpoint_tree(tree, make_state()), make_state(10))
        assert "checkpoint 20 is damaged and set aside" in caplog.text
        assert "going back to checkpoint 10" in caplog.text
        manager.save(20, to_checkpoint_tree(make_state(20)))
        manager.wait()
        assert manager.restore_latest(template)[0] == 20
    assert (tmp_path / "damaged_20").is_dir()


def test_all_damaged_is_an_error(tmp_path):
    save(tmp_path, 10)
    damage(tmp_path, 10)
    with (
        CheckpointManager(tmp_path) as manager,
        pytest.raises(CheckpointError, match="none of the 1 checkpoints"),
    ):
        manager.restore_latest(to_checkpoint_tree(make_state()))
    assert (tmp_path / "checkpoint_10").is_dir()


def test_another_optimizer_is_named(tmp_path):
    save(tmp_path, 10, 20)
    with CheckpointManager(tmp_path) as manager:
        template = to_checkpoint_tree(make_state(frozen=("^b$",)))
        with pytest.raises(CheckpointStructureError, match=r"lacks state/param_states/.*besides"):
            manager.restore_latest(template)
        template = to_checkpoint_tree(make_state())
        template["target"]["b"] = jnp.zeros(5)
        with pytest.raises(CheckpointStructureError, match=r"target/b \(\(2,\) there, \(5,\)"):
            manager.restore_latest(template)
        assert manager.steps() == [10, 20]


def test_another_model_is_refused(tmp_path):
    save(tmp_path, 1, config=CONFIG)
    CheckpointManager(tmp_path, config=CONFIG).close()
    other = {
        "model": {"width": 16, "stage_blocks": (1, 2), "new": True},
        "vocabulary": {"size": 20},
    }
    with pytest.raises(ModelMismatchError) as caught:
        CheckpointManager(tmp_path, config=other)
    message = str(caught.value)
    assert "model.width is 8 there and 16 here" in message
    assert "model.new is absent there and True here" in message
    assert "stage_blocks" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"", b"[1]", b"null"], ids=list("bdelo")
)
def test_a_damaged_fingerprint_says_what_helps(tmp_path, content):
    save(tmp_path, 1, config=CONFIG)
    path = tmp_path / "model_fingerprint.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"JSON .* delete it, and"):
        CheckpointManager(tmp_path, config=CONFIG)
    path.unlink()
    assert save(tmp_path, 2, config=CONFIG) == [1, 2]
    assert path.exists()


@pytest.mark.parametrize("note", ["metrics/metrics", "_CHECKPOINT_METADATA"])
def test_damaged_notes_in_a_checkpoint_cost_nothing(tmp_path, note, caplog):
    """orbax stopped at them: at bytes that are no text, lists, depth, texts for numbers."""
    options = {"best_metric": "score", "keep": 3}
    with CheckpointManager(tmp_path, **options) as manager:
        for step in (1, 2):
            manager.save(step, to_checkpoint_tree(make_state(step)), metrics={"score": step})
        manager.wait()
    path = tmp_path / "checkpoint_2" / note
    for content in (b"\xff", b"[1]", b"[" * 100_000, b'{"score": "x"}', b""):
        path.write_bytes(content)
        (tmp_path / "checkpoint_9").write_text("no directory")
        with CheckpointManager(tmp_path, **options) as manager:
            step, _ = manager.restore_latest(to_checkpoint_tree(make_state()))
            assert step == 2
            assert manager.steps() == [1, 2]
    assert f"{path.name} is damaged; nothing depends on it; set aside as" in caplog.text
    assert (tmp_path / "checkpoint_9.damaged").exists()


def test_another_way_to_compute_is_welcome(tmp_path):
    settings = {"remat": "none", "attention": "auto", "conv": "auto", "width": 8}
    save(tmp_path, 1, config={"model": settings})
    CheckpointManager(tmp_path, config={"model": {**settings, "remat": "full"}}).close()
    with pytest.raises(ModelMismatchError, match=r"model\.width .*8 .* 16"):
        CheckpointManager(tmp_path, config={"model": {**settings, "conv": "xla", "width": 16}})


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run: Not a dir"):
        CheckpointManager(tmp_path / "file" / "run")


def test_no_space_is_found_before_writing(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    with CheckpointManager(tmp_path) as manager:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
        with pytest.raises(CheckpointError, match=r"checkpoint 5 .* 100 B free"):
            manager.save(5, to_checkpoint_tree(make_state()))
        assert manager.steps() == []


def test_a_failed_save_is_reported(tmp_path):
    # In the background orbax would wait five minutes for a directory that cannot be made.
    with CheckpointManager(tmp_path / "run", asynchronous=False) as manager:
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("in the way")
        with pytest.raises(CheckpointError, match=r"saving checkpoint 1 to .* failed") as caught:
            manager.save(1, to_checkpoint_tree(make_state()))
    assert "\n" not in str(caught.value)


def test_bad_settings():
    with pytest.raises(ValueError, match="at least 1"):
        CheckpointManager("unused", keep=0)
    with pytest.raises(ValueError, match="'max' or 'min'"):
        CheckpointManager("unused", best_mode="up")
    assert readable_size(1536) == "1.5 KiB"
    assert readable_size(3 * 2**40) == "3072.0 GiB"


def saved_twice_since(directory, last):
    names = [path.name for path in directory.glob("checkpoint_*") if "tmp" not in path.name]
    return sum(int(name.split("_")[1]) > last for name in names) >= 2


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
        assert time.monotonic() < end, "the saving process makes no progress"
        time.sleep(0.002)


def test_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path):
    """Kill -9 while a temporary directory exists, that is in the middle of writing, twice."""
    last = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoint.endless_saving", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(functools.partial(saved_twice_since, tmp_path, last), process)
            wait_for(lambda: any(tmp_path.glob("checkpoint_*tmp*")), process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with CheckpointManager(tmp_path, keep=3) as manager:
            steps = manager.steps()
            template = to_checkpoint_tree(make_state())
            template["target"]["ballast"] = jnp.zeros((1 << 20,))
            step, tree = manager.restore_latest(template)
        assert step == steps[-1] > last
        assert int(tree["state"]["step"]) == step
        assert all(np.all(leaf == step) for leaf in jax.tree.leaves(tree["target"]))
        assert not list(tmp_path.glob("damaged_*"))
        last = step

"""Parts of a run that need no training: W&B, dumps of bad batches, the plan's arithmetic."""

import json
import sys
import types

import jax
import numpy as np
import pytest

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax import plan as plan_command
from ofa_jax.data.tasks.features import empty_row, stack_rows
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import TaskSet
from ofa_jax.model import flops
from ofa_jax.model.config import SIZES
from ofa_jax.runs import directory as run_directory
from ofa_jax.runs import log as run_log
from ofa_jax.runs.engine import FROZEN_BATCH_NORM
from ofa_jax.runs.log import LogConfig
from ofa_jax.runs.plan import StepPlan, describe, efficiency_of, network_and_efficiency
from ofa_jax.sharding.chips import CHIPS
from ofa_jax.sharding.collectives import Collective
from ofa_jax.training.optimizer import matching_paths

LENGTHS = {"inputs": 30, "targets": 20, "image": 32}


def test_wandb_gets_the_same_numbers_and_goes_on_after_a_restart(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    def init(**given):
        calls.append(given)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    config = LogConfig(tensorboard=False, wandb_project="ofa", wandb_mode="offline")
    for step in (1, 2):
        log = run_log.RunLog(tmp_path / "run", step - 1, config, settings="RANDOM_SEED = 0")
        log.write(step, {"loss": 3.0})
        log.close()
    first, second = calls[0], calls[3]
    assert first == second, "one run of W&B for a directory"
    assert (first["project"], first["mode"], first["name"]) == ("ofa", "offline", "run")
    assert first["resume"] == "allow"
    assert first["config"] == {"gin": "RANDOM_SEED = 0"}
    assert calls[1:3] == [(1, {"loss": 3.0}), "finished"]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb_project .*not installed"):
        run_log.RunLog(tmp_path, 0, LogConfig(wandb_project="ofa"))


def test_dump_of_a_bad_batch(tmp_path):
    [(task, rate)] = lookup("scenes_vqa")
    tasks = TaskSet((task,), (rate,), (), LENGTHS, task.tokenizer())
    batch = stack_rows([empty_row(LENGTHS)] * 3)
    batch["decoder_loss_weights"][1] = np.nan
    ids = [1, *task.tokenizer().encode("what color"), 2]
    batch["encoder_input_tokens"][2, : len(ids)] = ids
    path = run_directory.dump_batch(tmp_path, 17, batch, tasks)
    assert path == tmp_path / "nonfinite" / "batch_17.npz"
    with np.load(path) as saved:
        assert set(saved.files) == set(batch)
        np.testing.assert_array_equal(saved["decoder_loss_weights"], batch["decoder_loss_weights"])
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["scenes_vqa"] * 3
    assert np.isnan(rows[1]["weight"])
    assert rows[2]["input"].strip().startswith("what color")


def test_frozen_batch_norm_freezes_its_scale_and_bias_only():
    params = flops.abstract_variables(SIZES["nano"])["params"]
    frozen = matching_paths(params, (FROZEN_BATCH_NORM,))
    names = {
        "/".join(str(key.key) for key in path if hasattr(key, "key")): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(frozen)
    }
    chosen = {name for name, leaf in names.items() if leaf}
    assert "encoder/resnet/stem_norm/scale" in chosen
    assert "encoder/resnet/stage1_block0/shortcut_norm/bias" in chosen
    assert "encoder/resnet/stage3_block0/norm2/scale" in chosen
    of_norms = {n for n in names if n.startswith("encoder/resnet/") and "norm" in n}
    assert chosen == of_norms


PLAN = StepPlan(
    model="huge",
    parameters=930_000_000,
    mesh={"replica": 1, "data": 64, "model": 4},
    batch_size=2048,
    compiler="cpu",
    compile_seconds=100.0,
    memory={"state": 1 << 30, "arguments": 1 << 30, "results": 0, "temporary": 3 << 30}
    | {"total": 4 << 30},
    collectives=[
        Collective("all-gather", 1 << 30, 2, 64, ("data",)),
        Collective("all-reduce", 1 << 20, 1, 256, ("data", "model")),
    ],
    model_operations=6 * 10**15,
    executed_operations=8 * 10**15,
)


def test_expected_times_of_a_plan():
    chip = CHIPS["v5e"]
    times = PLAN.times(chip, 0.5)
    assert PLAN.devices == 256
    assert times["compute"] == pytest.approx(8e15 / 256 / (197e12 * 0.5))
    assert times["memory"] == pytest.approx(8 * 2**30 / 819e9)
    # The data axis is a ring and a line of 4, two and one of the four links.
    gathered, reduced = 2 * 2**30 * 63 / 64, 2 * 2**20 * 255 / 256
    assert times["network"] == pytest.approx(gathered / 150e9 + reduced / 200e9)
    assert PLAN.times(chip, 0.5, sides=(8, 32))["network"] > times["network"]
    assert times["best"] == max(times["compute"], times["memory"], times["network"])
    # Over two slices the group of all chips goes over the slow network.
    over_slices = PLAN.times(chip, 0.5, slices=2)["network"]
    # Half a pod, 8x16: the data axis keeps its ring, and a line of 4.
    assert over_slices == pytest.approx(gathered / 150e9 + reduced / chip.slow_network)
    text = describe(PLAN, "v5e", 0.5)
    assert "at 50% of its peak, an assumption" in text
    assert "over a torus of 16x16" in text
    assert "at that share of the peak MFU is at most" in text
    assert "as measured" in describe(PLAN, "v5e", 0.4, measured=True)
    assert "torus" not in describe(PLAN, "h100", 0.5)
    assert "batch 2,048 on 256 devices (replica=1, data=64, model=4)" in text
    assert "total           4.0 GiB" in text
    assert "fits into the 16 GiB of v5e" in text
    assert "all-gather         over data         ( 64 devices)      2 x     2.0 GiB" in text


def test_efficiency_comes_from_a_measured_table_where_one_exists(tmp_path):
    table = tmp_path / "efficiency.json"
    words = ["--gin_file=x.gin", f"--efficiency_table={table}"]

    def found(*more):
        return efficiency_of(plan_command.parser().parse_args([*words, *more]))

    assert found() == (0.5, False)
    table.write_text('{"v5e": 0.41, "v4": 3}')
    assert found() == (0.41, True)
    assert found("--efficiency=0.3") == (0.3, False)
    assert found("--chip=h100") == (0.5, False)
    with pytest.raises(ValueError, match=r"v4 .*\(0, 1\], got 3"):
        found("--chip=v4")


def test_slices_and_sides_of_a_plan():
    words = ["--gin_file=x.gin", "--efficiency=0.4", "--efficiency_table=none"]
    parse = plan_command.parser().parse_args
    found = network_and_efficiency(parse([*words, "--dcn_mesh=replica=2", "--topology=v5e:4x8"]))
    wanted = {"efficiency": 0.4, "measured": False, "slices": 2, "sides": (4, 8)}
    assert found == wanted
    assert network_and_efficiency(parse(words)) == wanted | {"slices": 1, "sides": ()}


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        (["--mesh=data=64,model=4"], 256),
        (["--mesh=data=4", "--dcn_mesh=replica=2"], 8),
        (["--devices=16", "--mesh=data=-1,model=2"], 16),
    ],
)
def test_devices_of_a_plan(arguments, devices):
    options = plan_command.parser().parse_args(["--gin_file=x.gin", *arguments])
    assert plan_command.device_count(options) == devices


def test_a_plan_needs_a_number_of_devices(capsys):
    for arguments in ([], ["--mesh=data=-1,model=2"]):
        assert plan_command.main(["--gin_file=x.gin", *arguments]) == 2
        assert "give all sizes in --mesh (such as data=64,model=4), or --devices=256" in (
            capsys.readouterr().err
        )

"""What trains: after steps, frozen parameters are the same to the bit and trained ones are not."""

import pathlib
import re

import jax
import numpy as np
import pytest

from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model import OFA
from ofa_jax.model.config import TuningConfig
from ofa_jax.model.tuning import frozen_except
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer, parameter_path
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step
from tests.model.small import make_batch, make_config, make_variables

RUN_FILES = pathlib.Path(__file__).parents[2] / "gin_configs" / "runs" / "finetune"
METHODS = {
    "prefix": TuningConfig(encoder_prefix=3, decoder_prefix=2),
    "adapter": TuningConfig(adapter_dim=2),
    "lora": TuningConfig(lora_rank=2),
    "bitfit": TuningConfig(),
}
# Parameters that exist once per layer and stack: prefix tables, adapter arrays, and so on.
TRAINED = {
    "prefix": 2,
    "adapter": 4 * 4,
    "lora": (2 + 2 + 2) * 2 * 2,
    "bitfit": 2 * 4 + 2 * 5 + 2,
}


@pytest.mark.parametrize("method", METHODS)
def test_run_files_freeze_all_but_their_method(method):
    text = (RUN_FILES / f"tuning_{method}.gin").read_text()
    [pattern] = re.findall(r'frozen = \\?\s*\("(.*)",\)', text)
    assert pattern == frozen_except(method)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in ("prefix", "lora") else [pytest.mark.slow])
        for name in METHODS
    ],
)
def test_only_the_method_s_parameters_change(method):
    config = make_config(tuning=METHODS[method], batch_norm="frozen")
    model = OFA(config)
    frozen = (frozen_except(method),)
    tx, schedule = build_optimizer(
        OptimizerConfig(ScheduleConfig(peak=0.05, total_steps=10), frozen=frozen)
    )
    batch = make_batch(images=False) | {"task_ids": np.zeros(4, np.int32)}
    variables = make_variables(config)
    state = TrainState(
        step=np.int32(0),
        params=variables["params"],
        opt_state=tx.init(variables["params"]),
        batch_stats=variables["batch_stats"],
    )
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    step = make_train_step(
        model, tx, schedule, LossConfig(), vocab_size=70, frozen=frozen, donate=False
    )
    after = state
    for _ in range(2):
        after, _ = step(after, batch, jax.random.key(0))
    changed, size = set(), 0
    before = dict(jax.tree_util.tree_leaves_with_path(state.params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
        name = parameter_path(path)
        if re.search(frozen[0], name):
            np.testing.assert_array_equal(leaf, before[path], err_msg=name)
        else:
            changed.add(name)
            size += leaf.size
            # A query's change has no gradient where its low-rank partner is still zero; after two
            # steps every trained array has moved.
            assert np.any(np.asarray(leaf) != before[path]), name
    assert len(changed) == TRAINED[method]
    assert moments == 2 * size
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, state.batch_stats)

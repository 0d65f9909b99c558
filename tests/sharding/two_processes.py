"""One of the processes of `test_two_processes`: trains, saves, restores, prints its losses."""

import json
import pathlib
import sys

import jax
import jax.experimental.multihost_utils
import numpy as np

from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.sharding.mesh import build_mesh, mesh_context
from ofa_jax.sharding.placement import batch_sharding, create_sharded, place_batch
from ofa_jax.sharding.rules import rules_by_name
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState, from_checkpoint_tree, to_checkpoint_tree
from ofa_jax.training.step import make_train_step
from tests.training.standin import VOCAB_SIZE, StandIn, make_batch


def main(directory: str, address: str, processes: int, process: int) -> None:
    if processes > 1:
        jax.distributed.initialize(address, processes, process)
    rng = jax.random.key(0)
    model = StandIn(width=16)
    tx, schedule = build_optimizer(OptimizerConfig(ScheduleConfig(peak=0.01, shape="constant")))
    mesh, rules = build_mesh("data=4,model=2"), rules_by_name("fsdp_tensor")

    def create(key):
        return TrainState.create(model, tx, key, make_batch())

    state, shardings = create_sharded(create, rng, mesh=mesh, rules=rules)
    step = make_train_step(
        model,
        tx,
        schedule,
        LossConfig(),
        vocab_size=VOCAB_SIZE,
        num_tasks=2,
        state_shardings=shardings,
        batch_shardings=batch_sharding(mesh),
    )
    losses = []

    def train(state, steps):
        for seed in steps:
            rows = slice(process * 8 // processes, (process + 1) * 8 // processes)
            batch = {name: value[rows] for name, value in make_batch(seed=seed).items()}
            state, metrics = step(state, place_batch(batch, mesh), rng)
            metrics = jax.device_get(metrics)
            losses.append([float(metrics["loss"]), *metrics["task_loss_sum"].tolist()])
        return state

    with mesh_context(mesh, rules), CheckpointManager(directory, keep=3) as manager:
        for number in (1, 2):
            state = train(state, [number])
            manager.save(number, to_checkpoint_tree(state), dataset_state={"process": process})
        manager.wait()
        if process == 0:
            # A copy that broke off: all processes must go back together.
            for path in (pathlib.Path(directory) / "checkpoint_2" / "state").rglob("d/*"):
                path.write_bytes(path.read_bytes()[:10])
        jax.experimental.multihost_utils.sync_global_devices("damaged")
        restored = manager.restore_latest(to_checkpoint_tree(state), to_checkpoint_tree(shardings))
        number, tree = restored
        assert number == 1, number
        assert manager.dataset_state(1) == {"process": process}
        state = train(from_checkpoint_tree(tree, state), [2])
    assert np.allclose(losses[1], losses[2], rtol=1e-6), losses
    print(json.dumps(losses))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

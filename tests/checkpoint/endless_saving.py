"""Process of `test_manager`: goes on from the last checkpoint and saves until it is killed."""

import itertools
import sys

import jax.numpy as jnp

from ofa_jax.checkpoint.manager import CheckpointManager
from ofa_jax.training.state import to_checkpoint_tree
from tests.checkpoint.train_states import make_state


def main():
    manager = CheckpointManager(sys.argv[1], keep=3)
    for step in itertools.count((manager.steps() or [0])[-1] + 1):
        tree = to_checkpoint_tree(make_state(step))
        tree["target"]["ballast"] = jnp.full((1 << 20,), 1.0 * step)
        manager.save(step, tree)


if __name__ == "__main__":
    main()

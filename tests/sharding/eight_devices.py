"""Process of `test_eight_devices`: prints losses with and without sharding as one JSON line.

Arguments: cases such as "standin fsdp" and "nano fsdp": the model, and the rule file whose mesh and
rules it runs on. "shallow" is nano with one block of its ResNet, which compiles in half the time.
"""

import dataclasses
import json
import re
import sys

import jax
import numpy as np

from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.runs.settings import PartitionerConfig
from ofa_jax.sharding.mesh import build_mesh, mesh_context
from ofa_jax.sharding.placement import (
    batch_sharding,
    check_batch_size,
    create_sharded,
    place_batch,
    placement_report,
    state_shardings,
)
from ofa_jax.sharding.rules import build_rules
from ofa_jax.training.ema import EMAConfig
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step
from tests.sharding.rule_files import partitioner
from tests.training.standin import VOCAB_SIZE, StandIn, make_batch

RNG = jax.random.key(0)
# No other axis of the model has this size, so that arrays of the whole batch can be told.
NANO_BATCH_SIZE = 40


def nano_batch(size):
    rng = np.random.default_rng(0)
    batch = make_batch(size)
    batch["encoder_images"] = rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)
    batch["encoder_image_masks"] = np.arange(size) % 4 != 3
    batch["decoder_code_masks"] = np.zeros(size, bool)
    return batch


def collective_shapes(text):
    """Shapes that all-gathers and all-reduces in the text of a program leave on a device."""
    kinds = r" = (.*?) (?:all-gather|all-reduce)\("
    shapes = {
        tuple(int(size) for size in shape.split(","))
        for result in re.findall(kinds, text)
        for shape in re.findall(r"[a-z]+\d+\[([\d,]+)\]", result)
    }
    return sorted(shapes)


def two_steps(model, vocab_size, batch, settings, devices=None, *, initial=None):
    """Losses of two steps, from `initial` (numpy) or from a state that is made in place."""
    frozen = ("bias$",)
    config = OptimizerConfig(ScheduleConfig(peak=0.01, shape="constant"), frozen=frozen)
    tx, schedule = build_optimizer(config)

    def create(rng):
        return TrainState.create(model, tx, rng, batch, ema=True)

    mesh = build_mesh(settings.mesh, devices, dcn_spec=settings.dcn_mesh)
    rules = build_rules(settings.rules, settings.additional_rules)
    check_batch_size(len(batch["task_ids"]), mesh)
    if initial is None:
        state, shardings = create_sharded(create, RNG, mesh=mesh, rules=rules)
    else:
        shardings = state_shardings(jax.eval_shape(create, RNG), mesh, rules)
        state = jax.device_put(initial, shardings)
    initial = jax.device_get(state)
    local = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    share = local / sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = make_train_step(
        model,
        tx,
        schedule,
        LossConfig(label_smoothing=0.1),
        vocab_size=vocab_size,
        num_tasks=2,
        ema=EMAConfig(),
        frozen=frozen,
        state_shardings=shardings,
        batch_shardings=batch_sharding(mesh),
    )
    with mesh_context(mesh, rules):
        placed = place_batch(batch, mesh)
        program = step.lower(state, placed, RNG).compile()
        state, first = program(state, placed, RNG)
        state, second = program(state, placed, RNG)
    report = placement_report(jax.eval_shape(create, RNG), mesh, rules)
    found = {
        "loss": float(first["loss"]),
        "second_loss": float(second["loss"]),
        "gradient_norm": float(first["gradient_norm"]),
        "share": share,
        "report": report,
        "collective_shapes": collective_shapes(program.as_text()),
        "batch_parts": mesh.shape["replica"] * mesh.shape["data"],
    }
    return found, initial


def main():
    jax.config.update("jax_threefry_partitionable", True)
    one = jax.devices()[:1]
    standin = (StandIn(width=32), VOCAB_SIZE, make_batch())
    nano_config = dataclasses.replace(
        SIZES["nano"], dropout=0.1, layer_stack="scan", sample_patch_num=5
    )
    one_block = {"stage_blocks": (1,), "stage_widths": (48,), "stage_strides": (2,)}
    shallow_config = dataclasses.replace(
        nano_config, resnet=dataclasses.replace(nano_config.resnet, **one_block)
    )
    batch = nano_batch(NANO_BATCH_SIZE)
    models = {"standin": standin}
    for name, config in (("nano", nano_config), ("shallow", shallow_config)):
        models[name] = (OFA(config), config.vocab_size, batch)
    cases = {case: models[case.split()[0]] for case in sys.argv[1:]}
    references = {
        id(setting): two_steps(*setting, PartitionerConfig(), one) for setting in cases.values()
    }
    results = {}
    for case, setting in cases.items():
        reference, initial = references[id(setting)]
        # That a state is made in place is compiled once for the stand-in and for the model.
        made = case in ("standin fsdp", "shallow fsdp_tensor")
        result, _ = two_steps(
            *setting, partitioner(case.split()[1]), initial=None if made else initial
        )
        for name in ("loss", "second_loss", "gradient_norm"):
            result[f"reference_{name}"] = reference[name]
        results[case] = result
    print(json.dumps(results))


if __name__ == "__main__":
    main()

"""Rules, shardings and early checks that need no second device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, PartitionSpec

from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.mesh import build_mesh
from ofa_jax.sharding.placement import (
    abstract_arrays,
    array_sharding,
    check_axis_sizes,
    check_batch_size,
    place_batch,
    placement_report,
    placements,
    state_shardings,
)
from ofa_jax.sharding.rules import RULES, rules_by_name
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from tests.training.standin import StandIn, make_batch

MESH = AbstractMesh((2, 4, 2), ("replica", "data", "model"))


def abstract_state(model=None, frozen=()):
    tx, _ = build_optimizer(
        OptimizerConfig(ScheduleConfig(peak=0.1, shape="constant"), frozen=frozen)
    )
    return jax.eval_shape(
        lambda rng: TrainState.create(model or StandIn(), tx, rng, make_batch(), ema=True),
        jax.random.key(0),
    )


def spec(shape, names, rules="fsdp_tensor"):
    return array_sharding(shape, names, MESH, RULES[rules]).spec


def test_rules_of_typical_arrays():
    assert spec((64, 16), ("vocab", "embed")) == PartitionSpec("model", "data")
    assert spec((16, 64), ("embed", "mlp"), "fsdp") == PartitionSpec("data", None)
    assert spec((16, 64), ("embed", "mlp"), "tensor_parallel") == PartitionSpec(None, "model")
    assert spec((16, 64), ("embed", "mlp"), "data_parallel") == PartitionSpec(None, None)
    assert spec((3, 3, 8, 16), ("conv_h", "conv_w", "conv_in", "conv_out")) == PartitionSpec(
        None, None, None, "data"
    )
    # An activation's batch takes the data axis before its width can.
    batch = nn.logical_to_mesh_axes(("batch", "length", "embed"), RULES["fsdp"])
    assert batch == PartitionSpec(("replica", "data"), None, None)


def test_dimensions_that_do_not_divide_stay_whole():
    assert spec((63, 16), ("vocab", "embed")) == PartitionSpec(None, "data")


def test_unknown_rules_name_the_tables():
    with pytest.raises(ValueError, match=r"'zero' .*data_parallel, fsdp"):
        rules_by_name("zero")


def test_optimizer_and_average_are_split_like_their_parameters():
    state = abstract_state(frozen=("^kernel$",))
    shardings = state_shardings(state, MESH, RULES["fsdp_tensor"])
    assert jax.tree.structure(shardings) == jax.tree.structure(nn.meta.unbox(state))
    expected = shardings.params["embedding"].spec
    assert expected == PartitionSpec("model", "data")
    matches = [
        leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)
        if "embedding" in jax.tree_util.keystr(path)
    ]
    assert matches == [expected] * 4  # parameter, two moments, average
    assert shardings.step.spec == PartitionSpec()


def test_report_of_what_is_not_divisible():
    state = abstract_state(StandIn(width=6))
    entries = {entry.path: entry for entry in placements(state, MESH, RULES["fsdp_tensor"])}
    kernel = entries["params/kernel"]
    assert kernel.kept_whole == ("embed",)
    assert kernel.bytes == 2 * kernel.device_bytes == 6 * 12 * 4
    text = placement_report(state, MESH, RULES["fsdp_tensor"])
    row = next(line for line in text.splitlines() if line.startswith("params/kernel"))
    assert "(embed, mlp:model)" in row
    assert "not divisible: embed" in row
    assert "whole state" in text


def test_every_large_parameter_of_the_model_is_split():
    """A forgotten axis name would leave a large matrix on every device."""
    model = OFA(SIZES["base"])
    tx, _ = build_optimizer(OptimizerConfig(ScheduleConfig(peak=0.1, shape="constant")))
    batch = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((1, 4), jnp.int32),
        "decoder_input_tokens": jax.ShapeDtypeStruct((1, 4), jnp.int32),
        "encoder_images": jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8),
    }
    state = jax.eval_shape(lambda rng: TrainState.create(model, tx, rng, batch), jax.random.key(0))
    entries = placements(state, MESH, RULES["fsdp_tensor"])
    large = [e for e in entries if e.bytes > 2**20 and e.path.startswith("params/")]
    assert len(large) > 50
    whole = [e.path for e in large if e.device_bytes == e.bytes]
    assert not [path for path in whole if "position" not in path and "relative" not in path]
    share = sum(e.device_bytes for e in entries) / sum(e.bytes for e in entries)
    assert share < 0.25


def test_batch_sizes():
    check_batch_size(32, MESH, 2)
    with pytest.raises(ValueError, match=r"20 .* 8 .* 1 microbatches = 8.*16 or 24"):
        check_batch_size(20, MESH)
    with pytest.raises(ValueError, match="nearest is 32"):
        check_batch_size(8, MESH, 4)


def test_axis_sizes():
    check_axis_sizes({"heads": 12, "mlp": 3072}, MESH, RULES["tensor_parallel"])
    check_axis_sizes({"heads": 3}, MESH, RULES["fsdp"])
    with pytest.raises(ValueError, match=r"heads = 3, .* 2"):
        check_axis_sizes({"heads": 3}, MESH, RULES["tensor_parallel"])


def test_place_batch_and_abstract_arrays():
    mesh = build_mesh()
    batch = make_batch()
    placed = place_batch(batch, mesh)
    np.testing.assert_array_equal(placed["task_ids"], batch["task_ids"])
    state = abstract_state()
    shardings = state_shardings(state, mesh, RULES["fsdp"])
    shapes = abstract_arrays(state, shardings)
    assert shapes.params["embedding"].sharding == shardings.params["embedding"]
    assert shapes.params["embedding"].shape == (24, 8)

"""The gin files of sharding: read as gin reads them, and what FSDP leaves on a device."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh

from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.placement import input_share, placement_summary, placements
from ofa_jax.sharding.rules import RULES, build_rules
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from tests.sharding.rule_files import RULE_FILES, partitioner


def abstract_state(size, layer_stack="scan"):
    tx, _ = build_optimizer(OptimizerConfig(ScheduleConfig(peak=0.1, shape="constant")))
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens}
    model = OFA(dataclasses.replace(SIZES[size], layer_stack=layer_stack))
    return jax.eval_shape(
        lambda rng: TrainState.create(model, tx, rng, batch, ema=True), jax.random.key(0)
    )


def test_the_files_cover_the_tables():
    settings = {name: partitioner(name) for name in RULE_FILES}
    assert {config.rules for config in settings.values()} == set(RULES)
    assert any(config.dcn_mesh for config in settings.values())
    for name, config in settings.items():
        assert pathlib.Path(name).stem == name
        assert "data=-1" in config.mesh, f"{name} runs on any number of devices"


@pytest.mark.parametrize("size", ["nano", "base"])
def test_fsdp_leaves_at_most_0_15_of_the_state_on_each_of_8_devices(size):
    mesh = AbstractMesh((1, 8, 1), ("replica", "data", "model"))
    state = abstract_state(size)
    entries = placements(state, mesh, RULES["fsdp"])
    share = sum(e.device_bytes for e in entries) / sum(e.bytes for e in entries)
    assert 1 / 8 <= share <= 0.15
    lines = placement_summary(state, mesh, RULES["fsdp"], shown=3)
    assert lines[0] == "mesh: replica=1, data=8, model=1 (8 devices)"
    assert f"({share:.1%})" in lines[2]
    assert len(lines) == 3 + 3
    assert all(line.endswith("MiB") for line in lines[3:])


def test_rules_of_ones_own_go_first():
    own = build_rules("fsdp_tensor", (("conv_in", "model"), ("heads", None)))
    assert own[:2] == (("conv_in", "model"), ("heads", None))
    assert ("heads", "model") not in own
    assert build_rules("fsdp") == (*RULES["fsdp"], ("lookup_batch", ("replica",)))
    with pytest.raises(ValueError, match=r"'embed' .*'dta'"):
        build_rules("fsdp", [("embed", "dta")])
    with pytest.raises(ValueError, match=r"'embed' .*pair"):
        build_rules("fsdp", ["embed"])


class Device:
    """What `input_share` reads of a device."""

    def __init__(self, number, process):
        self.id, self.process_index = number, process


@pytest.mark.parametrize(
    ("shape", "hosts", "parts"),
    [
        ((1, 8, 1), 2, [(2, 0), (2, 1)]),
        ((2, 4, 1), 2, [(2, 0), (2, 1)]),
        ((1, 4, 2), 4, [(4, 0), (4, 1), (4, 2), (4, 3)]),
        ((1, 2, 4), 4, [(2, 0), (2, 0), (2, 1), (2, 1)]),  # two hosts hold one row
        ((1, 1, 8), 2, [(1, 0), (1, 0)]),
    ],
)
def test_hosts_read_the_rows_of_their_devices(shape, hosts, parts):
    import numpy as np

    grid = np.array([Device(number, number * hosts // 8) for number in range(8)])

    class FakeMesh:
        devices = grid.reshape(shape)
        size = 8

    assert [input_share(FakeMesh, host) for host in range(hosts)] == parts


@pytest.mark.parametrize(
    ("name", "additional", "axes"),
    [
        ("data_parallel", (), ("replica", "data")),
        ("tensor_parallel", (), ("replica", "data")),
        ("fsdp", (), ("replica",)),
        ("fsdp_tensor", (), ("replica",)),
        ("fsdp", (("embed", None),), ("replica", "data")),
        ("fsdp", (("embed", "model"),), ("replica", "data")),
        ("fsdp", (("embed", ("replica", "data")),), ()),
        (
            "data_parallel",
            (("batch", ("replica", "data", "model")), ("embed", "model")),
            ("replica", "data"),
        ),
    ],
)
def test_batches_are_looked_up_where_the_width_is_not_split(name, additional, axes):
    rules = build_rules(name, additional)
    assert dict(rules[::-1])["lookup_batch"] == axes
    spec = nn.logical_to_mesh_axes(("lookup_batch", "length", "embed"), rules)
    used = [axis for part in spec for axis in ((part,) if isinstance(part, str) else part or ())]
    assert len(used) == len(set(used))
    assert set(axes) <= set(used)

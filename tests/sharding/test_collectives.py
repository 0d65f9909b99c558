"""Counting of collectives in the text of partitioned programs."""

import pytest

from ofa_jax.sharding.chips import CHIPS, chip_of
from ofa_jax.sharding.collectives import program_collectives, summarise

MESH = {"replica": 1, "data": 4, "model": 2}
PROGRAM = """HloModule jit_step, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %gather = bf16[8,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}
  %group = f32[8]{0} reduce-scatter(%y), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (q: f32[8,16]) -> f32[] {
  %loop = (s32[], f32[8,16]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %norms = (f32[], f32[3]{0}) all-reduce(%u, %v), replica_groups=[1,8]<=[8], to_apply=%add
  %start = (f32[4,16]{1,0:T(8,128)}, f32[16,16]{1,0:T(8,128)}) all-gather-start(%w), replica_groups=[2,4]<=[4,2]T(1,0)
  %done = f32[16,16]{1,0} all-gather-done(%start)
  %send = f32[10]{0} collective-permute(%z), source_target_pairs={{1,1},{0,2},{2,4}}
  %alone = f32[100]{0} all-reduce(%z), replica_groups=[8,1]<=[8], to_apply=%add
}
"""  # noqa: E501


def test_collectives_of_a_program():
    found = program_collectives(PROGRAM, MESH)
    facts = [(c.operation, c.bytes, c.times, c.group, c.axes) for c in found]
    assert facts == [
        ("all-gather", 8 * 16 * 2, 12, 4, ("data",)),
        ("reduce-scatter", 8 * 4, 12, 2, ("model",)),
        ("all-reduce", 4 * 4, 1, 8, ("data", "model")),
        ("all-gather", 16 * 16 * 4, 1, 4, ("data",)),
        ("collective-permute", 40, 1, 3, ("data",)),
    ]
    assert [c.wire_bytes for c in found] == [
        256 * 3 / 4 * 12,
        32 * 12,
        16 * 2 * 7 / 8,
        1024 * 3 / 4,
        40,
    ]
    first = summarise(found)[0]
    assert (first.operation, first.axes, first.times) == ("all-gather", ("data",), 13)
    assert first.bytes == 256 * 12 + 1024
    assert first.wire_bytes == first.bytes * 3 / 4


TPU_PROGRAM = """HloModule jit_step, num_partitions=8

%piece.1 (a: bf16[4,16]) -> bf16[16,16] {
  %all-gather.1 = bf16[16,16]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%piece.2 (a: bf16[4,16]) -> bf16[16,16] {
  %all-gather.2 = bf16[16,16]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
}

%loop_body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %fusion.1 = bf16[16,16] fusion(%x), kind=kOutput, calls=%piece.1
  %fusion.2 = bf16[16,16] fusion(%x), kind=kOutput, calls=%piece.2
  %reduce = f32[8]{0} all-reduce(%y), channel_id=8, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0':(2)2,'axis_2'}, to_apply=%add
}

%loop_condition (p: (s32[], f32[8,16])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(24)
  %index = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.4 = pred[]{:T(512)} compare(%index, %constant.3), direction=LT, metadata={op_name="while/cond/lt"}
}

ENTRY %main (q: f32[8,16]) -> f32[] {
  %loop = (s32[], f32[8,16]) while(%t), condition=%loop_condition, body=%loop_body, metadata={op_name="jit(step)/while"}
}
"""  # noqa: E501


def test_collectives_of_a_program_for_tpus():
    found = program_collectives(TPU_PROGRAM, MESH)
    facts = [(c.operation, c.bytes, c.times, c.group, c.axes) for c in found]
    assert facts == [
        ("all-gather", 16 * 16 * 2, 24, 4, ("data",)),
        ("all-reduce", 8 * 4, 24, 4, ("data", "model")),
    ]


def test_a_ring_is_as_large_as_its_devices():
    pairs = ",".join(f"{{{n},{(n + 1) % 16}}}" for n in range(16))
    permute = f" %p = f32[10]{{0}} collective-permute(%z), source_target_pairs={{{pairs}}}"
    program = f"ENTRY %main (q: f32[8]) -> f32[] {{\n{permute}\n}}\n"
    (found,) = program_collectives(program, {"data": 16, "model": 1})
    assert (found.group, found.axes, found.wire_bytes) == (16, ("data",), 40)
    # Two rings along one axis: each is as large as the axis.
    pairs = "{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}"
    text = program.replace(program[program.index("pairs={{") + 7 : -4], f"{pairs}}}")
    (found,) = program_collectives(text, MESH)
    assert (found.group, found.axes) == (4, ("data",))


@pytest.mark.parametrize(
    ("name", "chips", "sides"),
    [
        ("v5e", 256, (16, 16)),
        ("v5e", 32, (4, 8)),
        ("v5e", 1, (1, 1)),
        ("v4", 4, (1, 2, 2)),
        ("v5p", 32, (2, 4, 4)),
        ("v5p", 768, (8, 8, 12)),
        ("h100", 8, ()),
    ],
)
def test_slices_are_as_even_as_they_can_be(name, chips, sides):
    assert CHIPS[name].topology(chips) == sides


@pytest.mark.parametrize(
    ("name", "sides", "group", "links"),
    [
        ("v5e", (16, 16), 256, 4),
        ("v5e", (16, 16), 16, 2),
        ("v5e", (16, 16), 4, 1),
        ("v5e", (8, 16), 128, 3),
        ("v5e", (4, 4), 16, 2),
        ("v5p", (4, 4, 4), 64, 6),
        ("v5p", (2, 4, 4), 32, 3),
        ("v4", (1, 2, 2), 4, 2),
        ("v5e", (16, 16), 2, 1),
    ],
)
def test_wrap_around_links_follow_the_topology(name, sides, group, links):
    """v5e wraps sides of 16, v4 and v5p wrap slices of whole cubes of 4 x 4 x 4."""
    chip = CHIPS[name]
    assert chip.bandwidth(group, sides) == chip.fast_network * links / (2 * len(sides))
    assert chip.bandwidth(group) == chip.fast_network
    assert CHIPS["h100"].bandwidth(group, ()) == CHIPS["h100"].fast_network


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v4", "v4"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)
def test_chips_by_device_kind(kind, name):
    assert chip_of(kind) is CHIPS[name]


def test_a_cpu_is_no_chip():
    assert chip_of("cpu") is None

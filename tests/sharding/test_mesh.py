"""Mesh specifications and their errors."""

import types

import numpy as np
import pytest

from ofa_jax.sharding.mesh import MeshError, arrange_devices, build_mesh, parse_mesh


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", (1, 8, 1)),
        (None, (1, 8, 1)),
        ("data=4,model=2", (1, 4, 2)),
        (" data = 4 , model = 2 ", (1, 4, 2)),
        ("model=2,data=-1", (1, 4, 2)),
        ({"replica": 2, "data": -1}, (2, 4, 1)),
        ("replica=2,data=2,model=2", (2, 2, 2)),
        ("model=8", (1, 1, 8)),
    ],
)
def test_sizes(spec, expected):
    sizes = parse_mesh(spec, 8)
    assert tuple(sizes) == ("replica", "data", "model")
    assert tuple(sizes.values()) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data=16", "data=16 has 16 devices, but there are only 8"),
        ("data=4", "data=4 has 4 devices, but there are all 8"),
        ("data=-1,model=3", "8 devices do not divide by the 3"),
        ("data=-1,model=-1", "only one axis"),
        ("data=0", "must be positive or -1, got 0"),
        ("data:4", "'data:4' is not of the form axis=size"),
        ("fsdp=4", "'fsdp' is none of replica, data, model"),
        ("data=4,data=2", "given twice"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(MeshError, match=message):
        parse_mesh(spec, 8)


def test_build_on_what_there_is():
    mesh = build_mesh()
    assert mesh.axis_names == ("replica", "data", "model")
    assert mesh.shape["replica"] == mesh.shape["model"] == 1


def fake_devices(slices, each):
    return [
        types.SimpleNamespace(
            id=s * each + i,
            slice_index=s,
            process_index=s,
            platform="cpu",
            device_kind="cpu",
            client=None,
        )
        for i in range(each)
        for s in range(slices)
    ]


def test_only_the_replica_axis_crosses_slices():
    grid = arrange_devices({"replica": 2, "data": 2, "model": 2}, fake_devices(2, 4))
    assert grid.shape == (2, 2, 2)
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    for replica in slices:
        assert len(np.unique(replica)) == 1
    assert len(np.unique(slices)) == 2
    with pytest.raises(MeshError, match="form 2 slices"):
        arrange_devices({"replica": 1, "data": 4, "model": 2}, fake_devices(2, 4))

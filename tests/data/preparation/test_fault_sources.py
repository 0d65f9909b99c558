"""Sets of every source with some broken records: exactly those are lost, each by its reason."""

import collections
import json

import numpy as np
import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.preparation.faulty_formats import (
    FORMATS,
    IMAGES,
    JPEG,
    dump,
    file_name,
)

RECORDS, BROKEN = 160, 30


@pytest.mark.parametrize("name", FORMATS)
def test_exactly_the_broken_records_are_lost(tmp_path, name):
    one = FORMATS[name]
    faults: list[str | None] = [None] * RECORDS
    places = np.random.default_rng(len(name)).choice(RECORDS, BROKEN, replace=False)
    for turn, place in enumerate(places.tolist()):
        faults[place] = list(one.faults)[turn % len(one.faults)]
    (tmp_path / "good.jpg").write_bytes(JPEG)
    for fault, (data, _) in IMAGES.items():
        (tmp_path / file_name(fault)).write_bytes(data)
    arguments = one.write(tmp_path, faults)
    command = [f"--{key}={value}" for key, value in arguments.items()]
    source = f"--source={name.split()[0]}"
    out = tmp_path / "out"
    assert run_prepare([source, *command, f"--out={out}", "--processes=1", "--num_shards=2"]) == 0
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    lost = collections.Counter()
    for part in ("dropped", "left_out"):
        lost.update({reason: found["count"] for reason, found in entry[part].items()})
    expected = collections.Counter()
    for fault in filter(None, faults):
        reasons = one.faults[fault]
        expected.update([reasons] if isinstance(reasons, str) else reasons)
    assert lost == expected
    records = PreparedSource(str(out)).open("train")
    kept = [records[number]["image_id"] for number in range(len(records))]
    assert kept == [str(number) for number, fault in enumerate(faults) if fault is None]


def test_one_bad_box_costs_no_image(tmp_path):
    """The published Visual Genome has thousands of boxes with a negative side or corner."""
    (tmp_path / "1.jpg").write_bytes(JPEG)
    corners = [(-5, 3, 4, 4), (2, 3, -4, 12), (2, 3, 10, 12), (2, 3, 0, 12)]
    regions = [
        dict(zip(("x", "y", "width", "height"), box)) | {"phrase": f"phrase {number}"}
        for number, box in enumerate(corners)
    ]
    path = dump(tmp_path / "r.json", [{"id": 1, "regions": regions}])
    command = [f"--annotations={path}", f"--images={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert run_prepare(["--source=visual_genome_regions", *command, "--processes=1"]) == 0
    [example] = [PreparedSource(str(tmp_path / "out")).open("train")[0]]
    assert example["refexps"] == ["phrase 2"]
    entry = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]
    lost = {"box_degenerate": 1, "box_inverted": 1, "box_outside": 1}
    assert (entry["removed_boxes"], entry["dropped"]) == (lost, {})

"""Data sets of several formats, prepared by the command a user types; one record of each is bad."""

import json

import numpy as np
import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.ops.image import decode_image
from ofa_jax.data.sources import formats
from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.sources import coco_files, parquet_files, tar_files
from tests.data.sources.photographs import annotated, write_pictures


def webdataset(directory):
    """The second image is cut off."""
    for number, one in enumerate(annotated()):
        files = tar_files.sample(one, txt=one.captions[0])
        if number == 1:
            files = {
                name: data[:900] if name.endswith("jpg") else data for name, data in files.items()
            }
        tar_files.write_tar(directory / f"{number}.tar", files)
    return "webdataset", {"paths": f"{directory}/*.tar"}, "truncated_image"


def coco_captions(directory):
    """The second image is not there."""
    images = write_pictures(directory / "train2014", coco_files.file_name)
    (directory / "train2014" / coco_files.file_name(annotated()[1])).unlink()
    document = {"images": coco_files.image_entries(), "annotations": coco_files.caption_entries()}
    path = coco_files.dump(directory / "captions.json", document)
    return "coco_captions", {"annotations": path, "images": images}, "missing_file"


def coco_instances(directory):
    """A box of the second image lies outside."""
    images = write_pictures(directory / "train2014", coco_files.file_name)
    document = coco_files.instances()
    boxes = [box for box in document["annotations"] if box["image_id"] == annotated()[1].number]
    boxes[-1]["bbox"] = [150, 10, 60, 60]
    path = coco_files.dump(directory / "instances.json", document)
    return "coco_instances", {"annotations": path, "images": images}, "box_outside"


# Where only the bad box would go, and the record stay.
WHOLE = {coco_instances: ["--bad_boxes=drop_example"]}


def parquet(directory):
    """The second caption is blank."""
    rows = [parquet_files.row(one) for one in annotated()]
    rows[1]["text"] = " "
    path = parquet_files.write(directory / "train.parquet", rows)
    columns = ",".join("=".join(pair) for pair in parquet_files.CAPTIONS)
    constants = ",".join("=".join(pair) for pair in parquet_files.CONSTANTS)
    arguments = {"paths": path, "columns": columns, "constants": constants}
    return "parquet", arguments, "empty_text"


@pytest.mark.parametrize("make", [webdataset, coco_captions, coco_instances, parquet])
def test_sources_are_prepared_without_their_broken_record(tmp_path, make):
    name, arguments, reason = make(tmp_path)
    out = tmp_path / "out"
    command = [f"--source={name}", f"--out={out}", "--processes=1", "--resize_short_side=64"]
    command += [f"--{argument}={value}" for argument, value in arguments.items()]
    command += WHOLE.get(make, [])
    assert run_prepare(command) == 0

    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    assert entry["source"] == {"format": name, **arguments}
    [bad] = entry["dropped"][reason]["examples"]
    assert (bad["record"], len(entry["dropped"])) == (1, 1)

    before = formats.source(name, arguments).open("train")
    after = PreparedSource(str(out)).open("train")
    assert len(after) == len(before) - 1
    for index, place in enumerate([0, 2, 3]):
        source, found = before[place], after[index]
        assert found.keys() == source.keys()
        height, width = decode_image(source["image"]).shape[:2]
        small = decode_image(found["image"]).shape[:2]
        assert min(small) == 64
        for field, value in source.items():
            if field == "boxes":
                ratio = np.array([small[1] / width, small[0] / height] * 2)
                np.testing.assert_allclose(found[field], value * ratio, rtol=1e-4)
            elif field != "image":
                assert found[field] == value

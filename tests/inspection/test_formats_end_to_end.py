"""Formats that no slot's command names: prepared and inspected, raw and prepared."""

import json

import pytest

from ofa_jax import inspect as command
from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources import formats
from tasks.pretrain_slots import SLOTS
from tests.data.sources.tfds_store import store
from tests.inspection.raw_files import COUNT, write_others
from tests.integration.photographs import write_official_files

# Format -> its arguments, the one that PATH stands for first, and how many records there are.
OTHERS = {
    "tsv": ("--paths=raw/vision_language_examples.tsv --layout=vision_language", 3 * COUNT),
    "karpathy": ("--annotations=raw/coco/dataset_coco.json --images=raw/coco/train2014", COUNT),
    "snli_ve": (
        "--annotations=raw/flickr30k/snli_ve_train.jsonl --images=raw/flickr30k/images",
        COUNT,
    ),
    "parquet": (
        "--paths=raw/parquet/*.parquet --columns=image=image.bytes,captions=caption "
        "--constants=type=caption",
        COUNT,
    ),
    "image_folder": ("--images=raw/classes --kind=classification", COUNT),
    "tfds": ("--name=photographs --data_dir=raw/array_record --kind=detection", 4),
    "table": ("--paths=raw/own.csv --images=raw/classes", COUNT),
    "prepared": ("--directory=data/tsv --types=qa", COUNT),
}


@pytest.mark.slow
def test_every_other_format(tmp_path, monkeypatch, capsys):
    """test_slots_end_to_end.py has the rest."""
    assert OTHERS.keys() == formats.FORMATS.keys() - {slot.format for slot in SLOTS}
    write_official_files(tmp_path / "raw")
    write_others(tmp_path / "raw")
    images = sorted((tmp_path / "raw" / "classes").rglob("*.*"))[:COUNT]
    lines = [f"{path.relative_to(tmp_path / 'raw' / 'classes')},a thing" for path in images]
    (tmp_path / "raw" / "own.csv").write_text("\n".join(["path,caption", *lines]))
    store(pytest.importorskip("tensorflow_datasets"), tmp_path / "raw", ("array_record",))
    monkeypatch.chdir(tmp_path)
    for name, (words, count) in OTHERS.items():
        arguments = words.split()
        assert run_prepare([f"--source={name}", *arguments, f"--out=data/{name}"]) == 0
        manifest = json.loads((tmp_path / "data" / name / "manifest.json").read_text())
        assert (manifest["splits"]["train"]["examples"], name) == (count, name)
        path = arguments[0].partition("=")[2]
        few = ["--limit=6", "--examples=3"]
        raw = [path, f"--source={name}", *arguments[1:], f"--out=shown/{name}_raw", *few]
        for inspected in (raw, [f"data/{name}", f"--out=shown/{name}", *few]):
            capsys.readouterr()
            assert command.main(inspected) == 0, capsys.readouterr().err
            text = capsys.readouterr().out
            assert f"records      {count}, looked at" in text
            assert "faults: none" in text
        assert (tmp_path / "shown" / name / "examples.png").is_file()

"""A mixture one source of which has lost half of its rows says so when the run starts."""

import base64
import json
import logging

import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.coco import CocoCaptions
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask, check_lengths
from ofa_jax.runs.rates import check_presence
from tests.data.preparation import faulty_formats as fault_sources
from tests.data.preparation.small_vocabulary import LENGTHS, tokenizer
from tests.data.sources import coco_files
from tests.data.sources.photographs import annotated, write_pictures

ROWS = 40


def rows(path, bad):
    """Rows of captions, of which some have none."""
    data = base64.b64encode(annotated()[0].image).decode()
    lines = [
        f"{number}\t{data}\t{'' if number < bad else 'a bus'}\t\t\t\tx\tcaption"
        for number in range(ROWS)
    ]
    path.write_text("\n".join(lines))
    return path


def task(name, source):
    from tasks.families import FAMILIES

    kind = FAMILIES["captioning"]
    instruction = (Instruction.parse(kind.instruction),)
    return OFATask(name, kind.family, instruction, source, tokenizer, prepare=kind.prepare)


def prepared(directory, name, bad):
    command = ["--source=tsv", "--layout=vision_language", f"--paths={rows(directory / name, bad)}"]
    assert run_prepare([*command, f"--out={directory / f'{name}_out'}", "--processes=1"]) == 0
    return PreparedSource(str(directory / f"{name}_out"))


@pytest.fixture
def told(caplog):
    def lines(check):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ofa_jax"):
            check()
        return [record.getMessage() for record in caplog.records]

    return lines


def test_half_of_prepared_data(tmp_path, told):
    tasks = [
        task("good_captioning", prepared(tmp_path, "good", 2)),
        task("half_captioning", prepared(tmp_path, "half", ROWS // 2)),
    ]
    [line] = told(lambda: check_presence(tasks, "train", "both"))
    assert line.startswith("half_captioning: ")
    assert line.endswith("preparation dropped 20 of 40 records (empty_text 20)")


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("coco_captions", "null", "empty_text"),
        ("coco_captions", "twice", "duplicated_id"),
        ("coco_instances", "size", "other_size"),
        ("coco_instances", "class", "undeclared_class"),
        ("vqa", "no answer", "no_answer"),
        ("refcoco", "no annotation", "missing_annotation"),
        ("table", "columns", "wrong_column_count"),
        ("parquet", "no box", "no_box"),
        ("webdataset", "text alone", "no_image"),
        ("tsv of regions", "outside", "box_outside"),
    ],
)
def test_half_of_every_source_to_one_kind(tmp_path, told, name, fault, reason):
    """Prepared data of whatever source remember what was dropped and what was left out."""
    sources = {}
    for kind, bad in (("good", 1), ("half", ROWS // 2)):
        directory = tmp_path / kind
        directory.mkdir()
        for image, data in {"good": fault_sources.JPEG, fault: fault_sources.JPEG}.items():
            (directory / f"{image}.jpg").write_bytes(data)
        faults = [fault if number < bad else None for number in range(ROWS)]
        arguments = fault_sources.FORMATS[name].write(directory, faults)
        words = [f"--{key}={value}" for key, value in arguments.items()]
        command = [f"--source={name.split()[0]}", *words, f"--out={directory / 'out'}"]
        assert run_prepare([*command, "--processes=1"]) == 0
        sources[kind] = PreparedSource(str(directory / "out"))
    tasks = [task(f"{kind}_captioning", source) for kind, source in sources.items()]
    [line] = told(lambda: check_presence(tasks, "train", "both"))
    assert line.startswith("half_captioning: ")
    assert f"{reason} 20" in line


def test_half_of_rows_that_are_skipped(tmp_path, told):
    for name, bad, expected in (("good", 2, 0), ("half", ROWS // 2, 1)):
        source = TsvSource(str(rows(tmp_path / name, bad)), "vision_language")
        one = task(name, source)
        lines = told(
            lambda one=one: check_lengths(one, LENGTHS, split="train", seed=0, skip_bad=True)
        )
        assert len(lines) == expected
    assert "half: 16 of 32 records that were looked at will be skipped, such as task" in lines[0]


def test_half_of_annotations(tmp_path, told):
    images = write_pictures(tmp_path / "train2014", coco_files.file_name)
    entries = coco_files.caption_entries()
    for entry in entries[::2]:
        entry["caption"] = None
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": coco_files.image_entries(), "annotations": entries}))
    one = task("coco_captioning", CocoCaptions(annotations=str(path), images=images))
    [line] = told(lambda: check_presence([one], "train", "coco_captioning"))
    assert line.startswith(
        "coco_captioning: 4 items of its files are in no example: empty_text 4 (s"
    )

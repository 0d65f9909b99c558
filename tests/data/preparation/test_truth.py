"""Rows without truth, of every source: dropped and counted by one word, kept in test splits."""

import base64
import collections
import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from tests.data.preparation import images as image_files

JPEG = image_files.jpeg(64, 48)
BOX = [4, 6, 20, 30]


def dump(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def coco(directory, *annotations, categories=()):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)]
    content = {"images": images, "annotations": list(annotations), "categories": list(categories)}
    return {"annotations": dump(directory / "a.json", content), "images": str(directory)}


def coco_captions(directory):
    return coco(directory, {"image_id": 1, "caption": "a bus"}, {"image_id": 2, "caption": None})


def listing(directory):
    """The file of a test set lists images, and nothing else."""
    return {
        "annotations": dump(directory / "a.json", {"images": [{"id": 1, "file_name": "1.jpg"}]}),
        "images": str(directory),
    }


def null_section(directory):
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": None}
    return {"annotations": dump(directory / "a.json", content), "images": str(directory)}


def karpathy(directory):
    entries = [
        {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences}
        for split in ("train", "test")
        for number, sentences in ((1, [{"raw": "a bus"}]), (2, [{"raw": None}]), (3, []))
    ]
    return {
        "annotations": dump(directory / "k.json", {"images": entries}),
        "images": str(directory),
    }


def vqa(directory, annotations=True):
    asked = [
        {"question_id": number, "image_id": number, "question": "what?"} for number in (1, 2, 3)
    ]
    given = [
        {"question_id": 1, "answers": [{"answer": "a bus"}]},
        {"question_id": 2, "answers": []},
    ]
    answers = {"annotations": dump(directory / "a.json", {"annotations": given})}
    return {
        "questions": dump(directory / "q.json", {"questions": asked}),
        "image_name": "{image_id}.jpg",
        "images": str(directory),
        **(answers if annotations else {}),
    }


def vqa_questions(directory):
    return vqa(directory, annotations=False)


def gqa(directory):
    entries = {
        "1": {"imageId": "1", "question": "what?", "answer": "a bus"},
        "2": {"imageId": "2", "question": "what?", "answer": None},
        "3": {"imageId": "3", "question": "what?"},
    }
    return {"questions": dump(directory / "q.json", entries), "images": str(directory)}


def snli_ve(directory):
    line = {"Flickr30K_ID": "1", "pairID": "1", "sentence1": "a", "sentence2": "b"}
    rows = [line | {"gold_label": "neutral"}, line | {"gold_label": "-"}, line]
    path = directory / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"annotations": str(path), "images": str(directory)}


def table(column, *values, **more):
    def write(directory):
        rows = [{"image": "1.jpg", column: value, **more} for value in values]
        return {"paths": dump(directory / "t.json", rows)}

    return write


def parquet(kind, field, *values, **more):
    def write(directory):
        rows = [{"image": JPEG, field: value, **more} for value in values]
        path = str(directory / "p.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        columns = ",".join(f"{name}={name}" for name in rows[0])
        return {"paths": path, "columns": columns, "constants": f"type={kind}"}

    return write


def webdataset(directory):
    path = directory / "w.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("a.jpg", JPEG), ("a.txt", b"a bus"), ("b.jpg", JPEG), ("c.jpg", JPEG), ("c.txt", b""),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return {"paths": str(path)}


def tsv(layout, *rows):
    def write(directory):
        image = base64.b64encode(JPEG).decode()
        path = directory / "r.tsv"
        path.write_text("".join("\t".join(row).replace("IMAGE", image) + "\n" for row in rows))
        return {"paths": str(path), "layout": layout}

    return write


# Kept in train; dropped records and left out items there; kept in test, of these without truth.
CASES = {
    "coco_captions": (coco_captions, 1, {"empty_text": 1}, 3, 2),
    "coco_captions of a listing": (listing, 0, {}, 1, 1),
    "coco_captions of null": (null_section, 0, {}, 1, 1),
    "karpathy": (karpathy, 1, {"empty_text": 1}, 3, 2),
    "coco_instances of a listing": (listing, 0, {}, 1, 1),
    "vqa": (vqa, 1, {"no_answer": 2}, 3, 2),
    "vqa without answers": (vqa_questions, 0, {"no_answer": 3}, 3, 3),
    "gqa": (gqa, 1, {"no_answer": 2}, 3, 2),
    "snli_ve": (snli_ve, 1, {"empty_text": 2}, 3, 2),
    "table of captions": (table("caption", "a bus", None, " "), 1, {"empty_text": 2}, 3, 2),
    "table of answers": (
        table("answer", "a bus", None, " ", question="what?"), 1, {"no_answer": 2}, 3, 2,
    ),
    "table of boxes": (table("box", BOX, None, phrase="the bus"), 1, {"no_box": 1}, 2, 1),
    "table of phrases": (table("phrase", "the bus"), 1, {}, 1, 1),
    "table of labels": (table("label", "bus", ""), 1, {"empty_text": 1}, 2, 1),
    "parquet of captions": (
        parquet("caption", "captions", ["a bus"], [None], [], None, [" "]),
        1, {"empty_text": 4}, 5, 4,
    ),
    "parquet of answers": (
        parquet("qa", "answers", ["a bus"], [None], [], None, question="what?"),
        1, {"no_answer": 3}, 4, 3,
    ),
    "parquet of boxes": (
        parquet("visual_grounding", "boxes", BOX, None, [], [0, 0, 0, 0], refexps="the bus"),
        1, {"no_box": 2, "box_degenerate": 1}, 4, 3,
    ),
    "parquet of labels": (
        parquet("classification", "label", "bus", None, " "), 1, {"empty_text": 2}, 3, 2,
    ),
    "webdataset": (webdataset, 1, {"empty_text": 2}, 3, 2),
    "tsv of captions": (
        tsv("caption_stage1", ["1", "1", "a bus", "", "IMAGE"], ["2", "2", "", "", "IMAGE"]),
        1, {"empty_text": 1}, 2, 1,
    ),
    "tsv of answers": (
        tsv("vqa", *(["1", "1", "what?", cell, "", "IMAGE"] for cell in ("1|!+a bus", " "))),
        1, {"no_answer": 1}, 2, 1,
    ),
    "tsv of regions": (
        tsv("refcoco", *(["1", "1", "bus", cell, "IMAGE"] for cell in ("4,6,20,30", ""))),
        1, {"no_box": 1}, 2, 1,
    ),
    "tsv of objects": (
        tsv("detection", *(["1", "IMAGE", cell] for cell in ("4,6,20,30,1,bus", ""))),
        1, {"no_box": 1}, 2, 1,
    ),
    "tsv of labels": (
        tsv("sst2", ["good", "1"], ["bad", "-1"], ["odd", ""]), 1, {"empty_text": 2}, 3, 2,
    ),
    "tsv of summaries": (tsv("gigaword", ["a b c", "b"], ["c d", ""]), 1, {"empty_text": 1}, 2, 1),
    "tsv of written text": (
        tsv("ocr", ["1", "IMAGE", "stop"], ["2", "IMAGE", ""]), 1, {"empty_text": 1}, 2, 1,
    ),
}  # fmt: skip


def prepared(tmp_path, source, files, split):
    out = tmp_path / split
    words = [f"--{name}={value}" for name, value in files.items()]
    command = [f"--source={source}", *words, f"--split={split}", f"--out={out}", "--processes=1"]
    status = run_prepare(command)
    if not (out / "manifest.json").exists():
        return status, {}, []
    entry = json.loads((out / "manifest.json").read_text())["splits"][split]
    records = PreparedSource(str(out)).open(split) if entry["examples"] else []
    return status, entry, [records[index] for index in range(len(records))]


@pytest.mark.parametrize("name", CASES)
def test_rows_without_truth(tmp_path, name):
    write, kept, lost, in_test, without = CASES[name]
    for number in (1, 2, 3):
        (tmp_path / f"{number}.jpg").write_bytes(JPEG)
    source = name.split()[0]
    files = write(tmp_path)
    status, entry, found = prepared(tmp_path, source, files, "train")
    assert (status, len(found)) == (0 if kept else 2, kept)
    if entry:
        counts = collections.Counter()
        for part in ("dropped", "left_out"):
            counts.update({word: one["count"] for word, one in entry[part].items()})
        assert counts == lost
    status, entry, found = prepared(tmp_path, source, files, "testA")
    if name == "karpathy":  # Its splits are named in the file.
        status, entry, found = prepared(tmp_path, source, files, "test")
    assert (status, len(found)) == (0, in_test)
    assert entry["notes"] == {"no_truth": without}
    truth = ("captions", "answers", "boxes", "label", "summary")
    empty = [one for one in found if not any(np.size(one.get(field, ())) for field in truth)]
    if source != "snli_ve":  # Its premises are captions.
        assert len(empty) == without
    assert "None" not in json.dumps([one.get("captions") for one in found])

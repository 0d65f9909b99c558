"""A source of every format with records that are bad."""

import base64
import csv
import dataclasses
import io
import json
import tarfile
from collections.abc import Callable

import pyarrow
import pyarrow.parquet

from tests.data.preparation import images as image_files

WIDTH, HEIGHT = 32, 24
JPEG = image_files.jpeg(WIDTH, HEIGHT)


BOX = [2, 3, 10, 12]  # left, top, width, height


LONG = "word " * 2_000


# What may be wrong with the image of any record: its bytes, None for no file, and the reason.
IMAGES = {
    "cut image": (JPEG[:-200], "truncated_image"),
    "empty image": (b"", "empty_image"),
    "no image at all": (b"\x00\x01" * 40, "undecodable_image"),
    "CMYK": (image_files.cmyk_jpeg(WIDTH, HEIGHT), "cmyk_image"),
    "one pixel high": (image_files.jpeg(WIDTH, 1), "side_too_short"),
}


MISSING = {"no file": "missing_file"}


TEXTS = {"null": "empty_text", "blank": "empty_text", "long": "text_too_long"}


BOXES = {
    "NaN": "box_not_finite",
    "outside": "box_outside",
    "flat": "box_degenerate",
    "inverted": "box_inverted",
    "no box": "no_box",
}


def file_name(fault):
    return f"{fault}.jpg" if fault in IMAGES or fault in MISSING else "good.jpg"


def words(fault, text="a bus"):
    return {"null": None, "blank": " ", "long": LONG}.get(fault, text)


def box(fault):
    """Left, top, width and height."""
    values = {"NaN": [float("nan"), 3, 10, 12], "outside": [40, 30, 5, 5], "flat": [2, 3, 0, 12]}
    return (values | {"inverted": [20, 3, -10, 12], "no box": None}).get(fault, BOX)


@dataclasses.dataclass(frozen=True)
class Format:
    """How a set is written, and what may be wrong with a record of it.

    Attributes:
      write: directory and faults, one per record, None for good ones, to the format's arguments.
      faults: to the reason, or several where parts of a record are counted as well.
    """

    write: Callable
    faults: dict[str, str | tuple[str, ...]]


def dump(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def listed(number, fault):
    """Entries of COCO's section 'images' for a record."""
    entry = {"id": number, "file_name": file_name(fault), "width": WIDTH, "height": HEIGHT}
    if fault == "size":
        entry |= {"width": 4 * WIDTH, "height": 4 * HEIGHT}
    if fault == "twice":
        return [entry, {**entry, "file_name": "other.jpg"}]
    return [] if fault == "unlisted" else [entry]


def coco_captions(directory, faults):
    images = [one for number, fault in enumerate(faults) for one in listed(number, fault)]
    captions = [
        {"image_id": number, "caption": ["a"] if fault == "list" else words(fault)}
        for number, fault in enumerate(faults)
    ]
    content = {"images": images, "annotations": captions}
    return {"annotations": dump(directory / "a.json", content), "images": directory}


def karpathy(directory, faults):
    entries = [
        {"imgid": number, "filename": file_name(fault), "split": "train",
         "sentences": [{"raw": words(fault)}]}
        for number, fault in enumerate(faults)
    ]  # fmt: skip
    return {"annotations": dump(directory / "k.json", {"images": entries}), "images": directory}


def coco_instances(directory, faults):
    images = [one for number, fault in enumerate(faults) for one in listed(number, fault)]
    boxes = [
        {"image_id": number, "category_id": 9 if fault == "class" else 1, "bbox": box(fault)}
        for number, fault in enumerate(faults)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "bus"}]}
    return {"annotations": dump(directory / "a.json", content), "images": directory}


def vqa(directory, faults):
    questions, answers = [], []
    for number, fault in enumerate(faults):
        asked = {"question_id": number, "image_id": number, "question": words(fault, "what?")}
        questions += [asked, {**asked, "question": "who?"}] if fault == "twice" else [asked]
        given = [{"answer": None if fault == "null answer" else "a bus"}]
        if fault != "no answer":
            answers.append({"question_id": number, "answers": given})
    for number, fault in enumerate(faults):
        path = directory / f"{number}.jpg"
        if fault not in MISSING:
            path.hardlink_to(directory / file_name(fault))
    return {
        "questions": dump(directory / "q.json", {"questions": questions}),
        "annotations": dump(directory / "a.json", {"annotations": answers}),
        "image_name": "{image_id}.jpg",
        "images": directory,
    }


def gqa(directory, faults):
    entries = {}
    for number, fault in enumerate(faults):
        answer = None if fault == "no answer" else "a bus"
        question = words(fault, "what?")
        entries[str(number)] = {"imageId": number, "question": question, "answer": answer}
        if fault not in MISSING:
            (directory / f"{number}.jpg").hardlink_to(directory / file_name(fault))
    return {"questions": dump(directory / "q.json", entries), "images": directory}


def refcoco(directory, faults):
    images = [one for number, fault in enumerate(faults) for one in listed(number, fault)]
    boxes = [
        {"id": number, "image_id": number, "bbox": box(fault)}
        for number, fault in enumerate(faults)
    ]
    targets = {"no annotation": 10**9, "no target": [-1], "two targets": [1, 2]}
    refs = [
        {"ann_id": targets.get(fault, number), "image_id": number, "split": "train",
         "sentences": [{"sent": words(fault), "sent_id": number}]}
        for number, fault in enumerate(faults)
    ]  # fmt: skip
    instances = dump(directory / "instances.json", {"images": images, "annotations": boxes})
    return {
        "refs": dump(directory / "refs.json", refs),
        "instances": instances,
        "images": directory,
    }


def visual_genome(directory, faults):
    entries = []
    for number, fault in enumerate(faults):
        place = dict(zip(("x", "y", "width", "height"), box(fault) or [None] * 4))
        entries.append({"id": number, "regions": [place | {"phrase": words(fault)}]})
        if fault not in MISSING:
            (directory / f"{number}.jpg").hardlink_to(directory / file_name(fault))
    return {"annotations": dump(directory / "r.json", entries), "images": directory}


def snli_ve(directory, faults):
    lines = []
    for number, fault in enumerate(faults):
        label = {"no label": "-", "label": "maybe"}.get(fault, "neutral")
        line = {"Flickr30K_ID": f"{number}", "pairID": f"{number}", "sentence1": "a bus"}
        lines.append(json.dumps(line | {"sentence2": words(fault), "gold_label": label}))
        if fault == "cut line":
            lines[-1] = lines[-1][:30]
        if fault not in MISSING:
            (directory / f"{number}.jpg").hardlink_to(directory / file_name(fault))
    (directory / "s.jsonl").write_text("\n".join(lines))
    return {"annotations": directory / "s.jsonl", "images": directory}


def table(directory, faults):
    with open(directory / "t.csv", "w", newline="", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption"))
        for number, fault in enumerate(faults):
            text = "caf\udce9" if fault == "not UTF-8" else words(fault)
            more = ("one more",) if fault == "columns" else ()
            if fault not in MISSING:
                (directory / f"{number}.jpg").hardlink_to(directory / file_name(fault))
            rows.writerow((f"{number}.jpg", text, *more))
    return {"paths": directory / "t.csv"}


def parquet(directory, faults):
    rows = [
        {"id": f"{number}", "text": words(fault), "box": box(fault),
         "image": {"bytes": None if fault == "path" else IMAGES.get(fault, (JPEG,))[0], "path": ""}}
        for number, fault in enumerate(faults)
    ]  # fmt: skip
    fields = [("id", "string"), ("text", "string"), ("box", pyarrow.list_(pyarrow.float32()))]
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    layout = pyarrow.schema([*fields, ("image", image)])
    data = pyarrow.Table.from_pylist(rows, layout)
    pyarrow.parquet.write_table(data, directory / "p.parquet", row_group_size=100)
    return {
        "paths": directory / "p.parquet",
        "columns": "image=image.bytes,image_id=id,refexps=text,boxes=box",
        "constants": "type=visual_grounding",
        "box_form": "xywh",
    }


def webdataset(directory, faults):
    with tarfile.open(directory / "w.tar", "w") as tar:
        for number, fault in enumerate(faults):
            files = {"jpg": IMAGES.get(fault, (JPEG,))[0], "txt": (words(fault) or "").encode()}
            if fault == "no text":
                del files["txt"]
            if fault == "text alone":
                del files["jpg"]
            if fault == "not UTF-8":
                files["txt"] = b"caf\xe9"
            for ending, data in [*files.items()] * (2 if fault == "twice" else 1):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return {"paths": directory / "w.tar"}


def tsv_refcoco(directory, faults):
    lines = []
    for number, fault in enumerate(faults):
        x, y, width, height = box(fault) or [0] * 4
        region = "" if fault == "no box" else f"{x},{y},{x + width},{y + height}"
        image = base64.b64encode(IMAGES.get(fault, (JPEG,))[0]).decode()
        cells = [f"{number}", f"{number}", words(fault) or "", region, image]
        lines.append("\t".join(cells[:-1] if fault == "columns" else cells))
    (directory / "r.tsv").write_text("\n".join(lines))
    return {"paths": directory / "r.tsv", "layout": "refcoco"}


def tsv_vqa(directory, faults):
    answers = {"no answer": "", "confidence": "-1|!+a bus", "form": "a bus"}
    lines = []
    for number, fault in enumerate(faults):
        image = base64.b64encode(IMAGES.get(fault, (JPEG,))[0]).decode()
        given = answers.get(fault, "1|!+a bus")
        cells = [f"{number}", f"{number}", words(fault) or "", given, "bus", image]
        lines.append("\t".join(cells))
    (directory / "v.tsv").write_text("\n".join(lines))
    return {"paths": directory / "v.tsv", "layout": "vqa"}


FILES = {name: reason for name, (_, reason) in IMAGES.items()}


ENTRIES = {"unlisted": "unlisted_image", "twice": "duplicated_id"}


PLACES = {"NaN": "box_not_finite", "outside": "box_outside", "no box": "bad_fields"}


FORMATS = {
    "coco_captions": Format(
        coco_captions, FILES | MISSING | TEXTS | ENTRIES | {"list": "bad_fields"}
    ),
    "karpathy": Format(karpathy, FILES | MISSING | TEXTS),
    "coco_instances": Format(
        coco_instances,
        FILES | MISSING | BOXES | ENTRIES | {"class": "undeclared_class", "size": "other_size"},
    ),
    "vqa": Format(
        vqa,
        FILES
        | MISSING
        | TEXTS
        | {"no answer": "no_answer", "null answer": ("empty_text", "no_answer")}
        | {"twice": "duplicated_id"},
    ),
    "gqa": Format(gqa, FILES | MISSING | TEXTS | {"no answer": "no_answer"}),
    "refcoco": Format(
        refcoco,
        FILES
        | MISSING
        | TEXTS
        | {name: reason for name, reason in BOXES.items() if name != "no box"}
        | {"no annotation": "missing_annotation", "no box": "missing_annotation"}
        | {"no target": "not_one_target", "two targets": "not_one_target"},
    ),
    "visual_genome_regions": Format(visual_genome, FILES | MISSING | TEXTS | PLACES),
    "snli_ve": Format(
        snli_ve,
        FILES
        | MISSING
        | TEXTS
        | {"no label": "empty_text", "label": "unreadable_record", "cut line": "unreadable_record"},
    ),
    "table": Format(
        table,
        FILES | MISSING | TEXTS | {"columns": "wrong_column_count", "not UTF-8": "invalid_utf8"},
    ),
    "parquet": Format(parquet, FILES | TEXTS | BOXES | {"path": "empty_image"}),
    "webdataset": Format(
        webdataset,
        FILES
        | TEXTS
        | {"no text": "empty_text", "text alone": "no_image", "twice": "duplicated_id"}
        | {"not UTF-8": "invalid_utf8"},
    ),
    "tsv of regions": Format(
        tsv_refcoco, FILES | TEXTS | BOXES | {"columns": "wrong_column_count"}
    ),
    "tsv of questions": Format(
        tsv_vqa,
        FILES
        | TEXTS
        | {"no answer": "no_answer", "confidence": "bad_confidence", "form": "unreadable_record"},
    ),
}

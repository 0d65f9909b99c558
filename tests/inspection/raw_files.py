"""Raw files of every pretraining slot, as their authors publish them, from some photographs.

`write_raw(directory)` lays them out as the commands of `tasks.pretrain_slots` expect, so that a
test can fill all slots by the commands that a person would type.
"""

import csv
import io
import json
import pathlib
import pickle
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from ofa_jax.data.ops.image import decode_image
from ofa_jax.data.ops.image_tokenizer import PatchCodebook
from tests.data.sources.photographs import annotated
from tests.data.sources.photographs import write_pictures as write_first_images

COUNT = 28


def pictures():
    return annotated(COUNT)


def write_pictures(*arguments):
    return write_first_images(*arguments, count=COUNT)


def _coco_name(one):
    return f"COCO_train2014_{one.number:012d}.jpg"


def _dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_tars(raw):
    """Captioned images (cc12m, cc3m, sbu) and images alone (infilling)."""
    for name in ("cc12m", "cc3m", "sbu"):
        for shard in (0, 1):
            files = {}
            for one in pictures()[shard::2]:
                key = f"{shard:05d}{one.number:04d}"
                files[f"{key}.jpg"] = one.image
                files[f"{key}.txt"] = one.captions[0].encode()
                files[f"{key}.json"] = json.dumps({"url": "x", "status": "success"}).encode()
            _tar(raw / name / f"{shard:05d}.tar", files)
    files = {f"{one.number}.jpg": one.image for one in pictures()}
    _tar(raw / "yfcc100m" / "00000.tar", files)
    _tar(raw / "imagenet21k" / "n01440764.tar", files)
    _tar(raw / "openimages" / "train_0.tar", files)


def write_coco(raw):
    """Captions and instances of COCO, Objects365, and the images of RefCOCO and VQA."""
    write_pictures(raw / "coco" / "train2014", _coco_name)
    write_pictures(raw / "coco" / "train2017")
    write_pictures(raw / "objects365" / "train" / "patch0")
    _dump(
        raw / "coco" / "annotations" / "captions_train2014.json",
        {
            "images": [{"id": one.number, "file_name": _coco_name(one)} for one in pictures()],
            "annotations": [
                {"id": number, "image_id": one.number, "caption": text}
                for number, one in enumerate(pictures())
                for text in one.captions
            ],
        },
    )
    for place, prefix in (("coco/annotations/instances_train2017", ""), (_OBJECTS365, "patch0/")):
        boxes = [
            {"id": 10 * one.number, "image_id": one.number, "category_id": 1, "bbox": box}
            for one in pictures()
            for box in (one.left_top_size, [0, 0, one.width // 2, one.height // 2])
        ]
        _dump(
            raw / f"{place}.json",
            {
                "images": [
                    {"id": one.number, "file_name": f"{prefix}{one.number}.jpg"}
                    for one in pictures()
                ],
                "annotations": [box | {"iscrowd": 0} for box in boxes],
                "categories": [{"id": 1, "name": "subject"}],
            },
        )


_OBJECTS365 = "objects365/zhiyuan_objv2_train"


def write_questions(raw):
    """VQAv2 and GQA."""
    questions, answers, graph = [], [], {}
    for one in pictures():
        entry = {"image_id": one.number, "question_id": one.number * 1000}
        questions.append(entry | {"question": f"How many {one.label}s are there?"})
        answers.append(entry | {"answers": [{"answer": "1"}] * 7 + [{"answer": "2"}] * 3})
        graph[f"{one.number}"] = {
            "imageId": str(one.number),
            "question": f"Is there a {one.label}?",
            "answer": "yes",
            "fullAnswer": f"Yes, there is a {one.label}.",
            "isBalanced": True,
        }
    directory = raw / "vqa"
    _dump(
        directory / "v2_OpenEnded_mscoco_train2014_questions.json",
        {"data_subtype": "train2014", "questions": questions},
    )
    _dump(directory / "v2_mscoco_train2014_annotations.json", {"annotations": answers})
    _dump(raw / "gqa" / "train_balanced_questions.json", graph)
    write_pictures(raw / "gqa" / "images")


def write_visual_genome(raw):
    """Regions, questions and objects of Visual Genome."""
    directory = raw / "visual_genome"
    write_pictures(directory / "VG_100K")
    (directory / "VG_100K_2").mkdir()
    regions, questions, objects = [], [], []
    for one in pictures():
        left, top, width, height = one.left_top_size
        place = {"x": left, "y": top}
        region = place | {"width": width, "height": height}
        phrases = enumerate((f"the {one.label}", one.captions[0]))
        described = [region | {"region_id": number, "phrase": text} for number, text in phrases]
        regions.append({"id": one.number, "regions": described})
        pair = {"qa_id": one.number, "question": f"What is there, a {one.label}?"}
        questions.append({"id": one.number, "qas": [pair | {"answer": f"A {one.label}."}]})
        thing = place | {"w": width, "h": height, "names": [one.label], "object_id": 1}
        objects.append({"image_id": one.number, "objects": [thing]})
    _dump(directory / "region_descriptions.json", regions)
    _dump(directory / "question_answers.json", questions)
    _dump(directory / "objects.json", objects)


def write_refcoco(raw):
    """The three sets of referring expressions."""
    images = [{"id": one.number, "file_name": _coco_name(one)} for one in pictures()]
    boxes = [
        {"id": 10 * one.number, "image_id": one.number, "bbox": one.left_top_size}
        for one in pictures()
    ]
    for name, file in (("refcoco", "unc"), ("refcocoplus", "unc"), ("refcocog", "umd")):
        refs = [
            {
                "ref_id": one.number,
                "ann_id": 10 * one.number,
                "image_id": one.number,
                "split": "train",
                "file_name": f"COCO_train2014_{one.number:012d}_1.jpg",
                "sentences": [{"sent": f"the {one.label}", "raw": "x", "sent_id": one.number}],
            }
            for one in pictures()
        ]
        _dump(raw / name / "instances.json", {"images": images, "annotations": boxes})
        (raw / name / f"refs({file}).p").write_bytes(pickle.dumps(refs, 2))


def write_open_images(raw):
    """The table of boxes, the names of classes, the images."""
    directory = raw / "openimages"
    write_pictures(directory / "train")
    with open(directory / "class-descriptions-boxable.csv", "w", newline="") as file:
        csv.writer(file).writerow(["/m/01", "Subject"])
    columns = "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated "
    columns += "IsGroupOf IsDepiction IsInside"
    with open(directory / "oidv6-train-annotations-bbox.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns.split())
        for one in pictures():
            x0, y0, x1, y1 = one.box
            across = [x0 / one.width, x1 / one.width]
            down = [y0 / one.height, y1 / one.height]
            numbers = [f"{value:.6f}" for value in (*across, *down)]
            table.writerow([one.number, "xclick", "/m/01", 1, *numbers, 0, 0, 0, 0, 0])


def write_text(raw):
    """A compressed file of JSON lines."""
    (raw / "pile").mkdir(parents=True)
    texts = [f"{one.captions[0]} , and {one.captions[1]} Nothing else happens ." for one in
             pictures()]  # fmt: skip
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (raw / "pile" / "00.jsonl.zst").write_bytes(pyarrow.compress(lines, "zstd", asbytes=True))


def write_others(raw):
    """Formats that are no slot's first choice: Karpathy's splits, SNLI-VE, parquet, class
    directories.

    Beside what `write_coco` wrote.
    """
    write_pictures(raw / "coco" / "train2014", _coco_name)
    entries = [
        {
            "filepath": "train2014",
            "filename": _coco_name(one),
            "imgid": one.number,
            "cocoid": one.number,
            "split": "train",
            "sentences": [{"raw": text, "tokens": []} for text in one.captions],
        }
        for one in pictures()
    ]
    _dump(raw / "coco" / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    write_pictures(raw / "flickr30k" / "images")
    claims = [
        {
            "Flickr30K_ID": str(one.number),
            "pairID": f"{one.number}#0r1n",
            "gold_label": "neutral",
            "sentence1": one.captions[0],
            "sentence2": f"Somebody paints the {one.label}.",
        }
        for one in pictures()
    ]
    lines = "".join(json.dumps(claim) + "\n" for claim in claims)
    (raw / "flickr30k" / "snli_ve_train.jsonl").write_text(lines)
    rows = [
        {"image": {"bytes": one.image, "path": None}, "caption": one.captions[0]}
        for one in pictures()
    ]
    (raw / "parquet").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), raw / "parquet" / "0.parquet")
    write_pictures(raw / "classes", lambda one: f"{one.label}/{one.number}.jpg")


def write_codebook(raw):
    """256 image codes of 8 x 8 pixels, in the place of the official VQGAN."""
    squares = []
    for one in annotated():
        picture = Image.fromarray(decode_image(one.image)).resize((256, 256))
        squares.append(np.asarray(picture))
    PatchCodebook.fit(np.stack(squares), num_codes=256, patch=8).save(raw / "codebook.npz")


def write_raw(raw: pathlib.Path) -> None:
    """Writes the files of all slots."""
    raw.mkdir(parents=True, exist_ok=True)
    write_tars(raw)
    write_coco(raw)
    write_questions(raw)
    write_visual_genome(raw)
    write_refcoco(raw)
    write_open_images(raw)
    write_text(raw)
    write_codebook(raw)

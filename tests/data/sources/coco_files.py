"""COCO files of tests."""

import json

from tests.data.sources.photographs import annotated


def file_name(one):
    return f"COCO_train2014_{one.number:012d}.jpg"


def dump(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def image_entries():
    return [
        {"id": one.number, "file_name": file_name(one), "width": one.width, "height": one.height}
        for one in annotated()
    ]


def caption_entries():
    pairs = [(one, text) for text in (0, 1) for one in annotated()]
    return [
        {"image_id": one.number, "id": number, "caption": one.captions[text]}
        for number, (one, text) in enumerate(pairs)
    ]


def instances(**change):
    boxes = []
    for number, one in enumerate(annotated()):
        small = [0, 0, one.width // 2, one.height // 2]
        for box, crowd, category in (
            (one.left_top_size, 0, number),
            (small, 0, 90),
            ([1, 1, 2, 2], 1, 90),
        ):
            entry = {"image_id": one.number, "bbox": box, "category_id": category}
            boxes.append(entry | {"id": len(boxes), "iscrowd": crowd})
    names = [one.label for one in annotated()]
    categories = [{"id": number, "name": f"{name} "} for number, name in enumerate(names)]
    # Objects365 writes annotations in any order.
    return {
        "categories": [*categories, {"id": 90, "name": "thing"}],
        "annotations": boxes[::-1],
        "images": image_entries(),
    } | change

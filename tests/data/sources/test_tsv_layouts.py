"""Every layout of the official fine-tuning files: written, read, same values; mistakes named."""

import numpy as np
import pytest

from ofa_jax.data.sources import tsv_layouts, tsv_writer
from ofa_jax.data.sources.tsv import TsvFormatError, TsvSource
from ofa_jax.data.sources.tsv_layouts import GLUE_LABELS, glue_label
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated

CODES = np.arange(1024, dtype=np.int32)


def picture(one):
    return {"image": one.image, "image_id": str(one.number)}


def caption(one):
    return {
        **picture(one),
        "example_id": f"row {one.number}",
        "captions": list(one.captions),
        "caption": one.captions[0],
        "objects": [one.label, "thing"],
        "type": "caption",
    }


def referring(one):
    expression = f"the {one.label}"
    return {
        **picture(one),
        "example_id": f"row {one.number}",
        "boxes": np.array([one.box], np.float32) + np.float32(0.25),
        "refexps": [expression],
        "refexp_box_index": [0],
        "region_captions": [expression],
        "caption": expression,
        "type": "visual_grounding",
    }


def question(one):
    return {
        **picture(one),
        "example_id": f"row {one.number}",
        "question": f"is there a {one.label}?",
        "answers": ["yes", "no, not at all"],
        "answer_conf": [1.0, 0.3],
        "objects": [one.label],
        "type": "qa",
    }


def entailment(one):
    return {
        **picture(one),
        "example_id": f"row {one.number}",
        "captions": [one.captions[0]],
        "caption": one.captions[0],
        "hypothesis": f"nobody sees the {one.label}",
        "label": tsv_layouts.ENTAILMENT_LABELS[one.number % 3],
        "type": "entailment",
    }


def to_image(one):
    return {
        "image_id": str(one.number),
        "captions": [one.captions[0]],
        "caption": one.captions[0],
        "image_codes": CODES * 7,
        "type": "text_to_image",
    }


def written_text(one):
    return {
        **picture(one),
        "captions": [one.label],
        "caption": one.label,
        "type": "ocr",
    }


def without(example, *fields):
    return {name: value for name, value in example.items() if name not in fields}


PICTURED = {
    "caption_stage1": lambda one: caption(one) | {"captions": [one.captions[0]]},
    "caption_stage2": caption,
    "caption_muge": lambda one: without(caption(one), "example_id", "objects"),
    "refcoco": referring,
    "refcoco_cn": lambda one: referring(one) | {"image_id": f"row {one.number}"},
    "vqa": question,
    "snli_ve": entailment,
    "image_gen": to_image,
    "image_gen_text": lambda one: without(to_image(one), "image_codes"),
    "image_gen_picture": lambda one: {**picture(one), **to_image(one)},
    "ocr": written_text,
}


@pytest.mark.parametrize("layout", PICTURED)
def test_layouts_with_identifiers_round_trip(tmp_path, layout):
    expected = [PICTURED[layout](one) for one in annotated()]
    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, [tsv_writer.row(layout, example) for example in expected])
    for found, example in zip(examples_of(TsvSource(str(path), layout)), expected, strict=True):
        same(found, example)


@pytest.mark.parametrize("layout", ["imagenet", "imagenet_pairs"])
def test_classes_round_trip(tmp_path, layout):
    expected = [
        {
            "image": one.image,
            "image_id": str(row),
            "label": f"{one.label}, kind of",
            "dataset": "imagenet",
            "type": "classification",
        }
        for row, one in enumerate(annotated())
    ]
    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, [tsv_writer.row(layout, example) for example in expected])
    source = TsvSource(str(path), layout, dataset="imagenet")
    for found, example in zip(examples_of(source), expected, strict=True):
        same(found, example)


def test_summaries_round_trip(tmp_path):
    expected = [
        {
            "image_id": str(row),
            "text": f"article {row} <unk> .",
            "summary": "# one",
            "type": "summary",
        }
        for row in range(3)
    ]
    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, [tsv_writer.row("gigaword", example) for example in expected])
    for found, example in zip(examples_of(TsvSource(str(path), "gigaword")), expected, strict=True):
        same(found, example)


@pytest.mark.parametrize("task", GLUE_LABELS)
@pytest.mark.parametrize("header", [False, True])
def test_glue_round_trip(tmp_path, task, header):
    columns = tsv_layouts.LAYOUTS[task].columns
    expected = []
    for row, label in enumerate(GLUE_LABELS[task].values()):
        example = {"image_id": str(row), "dataset": task, "label": label, "type": "sentences"}
        for column in columns:
            if column.startswith("sentence"):
                example[column] = f"{column} of {row}"
        expected.append(example)
    rows = [tsv_writer.row(task, example) for example in expected]
    if header:
        rows.insert(0, "\t".join("label" if one == "label" else "name" for one in columns))
    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, rows)
    for found, example in zip(examples_of(TsvSource(str(path), task)), expected, strict=True):
        same(found, example)


def test_numbers_of_classes_follow_the_official_files():
    # SPEC 8.7: MNLI's numbers are not GLUE's.
    assert glue_label("mnli", "0") == "neutral"
    assert glue_label("mnli", "1") == glue_label("rte", "entailment") == "entailment"
    assert glue_label("sst2", "0") == "negative"
    with pytest.raises(ValueError, match=r"'3' of mnli .*0 \(neutral\), 1"):
        glue_label("mnli", "3")


def test_other_columns(tmp_path):
    one = annotated()[0]
    expected = without(question(one), "objects", "example_id", "answers", "answer_conf")
    columns = ("image", "_", "question", "image_id")
    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, [tsv_writer.row("vqa", expected, columns)])
    [found] = examples_of(TsvSource(str(path), "vqa", columns=columns))
    same(found, expected)
    with pytest.raises(ValueError, match=r"column 'img'; .*image"):
        TsvSource("x", "vqa", columns=("img", "question"))
    with pytest.raises(ValueError, match=r"question .*missing"):
        TsvSource("x", "vqa", columns=("image", "_"))
    with pytest.raises(ValueError, match=r"'image' .*twice"):
        TsvSource("x", "vqa", columns=("image", "question", "image"))


@pytest.mark.parametrize(
    ("layout", "row", "message"),
    [
        ("refcoco", "1\t2\tdog\t1,2,3\tQUJD", "the region is '1,2,3', not 'x0,y0,x1,y1'"),
        ("vqa", "1\t2\twhat\tyes\t\tQUJD", r"the answers are 'yes', not 'confidence\|!\+answer'"),
        ("vqa", "1\t2\twhat\t1|!+yes\t\tQ*", "not base64"),
        ("snli_ve", "1\t2\tQUJD\ta\tb\tmaybe", "the class 'maybe' is not one of entailment, neut"),
        ("image_gen", "1\t1 2 x\ta", "a code is 'x', not a number"),
        ("sst2", "good film\t2", r"the class '2' of sst2 is not one of 0 \(negative\)"),
        ("cola", "only one", "1 columns, layout 'cola' has 3"),
    ],
)
def test_damaged_rows_name_file_and_line(tmp_path, layout, row, message):
    path = tmp_path / "rows.tsv"
    path.write_text(f"\n{row}\n")
    records = TsvSource(str(path), layout).open("train")
    with pytest.raises(TsvFormatError, match=message) as error:
        records[0]
    assert str(error.value).startswith(f"{path}, line 2: ")

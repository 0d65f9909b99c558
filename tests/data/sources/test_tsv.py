"""Official TSV files: the writer's rows come back from the reader, damaged rows are named."""

import base64
import bz2
import csv
import gzip
import io
import lzma
import pickle

import numpy as np
import pytest

from ofa_jax.data.sources import locations, tsv_writer
from ofa_jax.data.sources.tsv import TsvFormatError, TsvSource
from tests.data.sources.tsv_cells import picture


def source(path, layout, *types):
    return TsvSource((("train", str(path)),), layout, types)


def written(tmp_path, content, layout, *types):
    path = tmp_path / "examples.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return source(path, layout, *types).open("train")


CAPTION = {
    "image": picture(),
    "image_id": "a-1",
    "type": "caption",
    "captions": ["a temple &, a sky"],
    "objects": ["temple", "blue sky"],
    "dataset": "cc12m",
}
QUESTION = {
    "image": picture("JPEG"),
    "image_id": "b|2",
    "type": "qa",
    "question": "how many dogs are there?",
    "answers": ["2", "two, or three"],
    "answer_conf": [0.75, 0.25],
}
GROUNDING = {
    "image": picture(),
    "image_id": "3",
    "type": "visual_grounding",
    "refexps": ["the dog on the left"],
    "boxes": np.array([[0.25, 1.0, 6.5, 5.75]]),
}


def test_vision_language_round_trip(tmp_path):
    path = tmp_path / "examples.tsv"
    rows = [tsv_writer.vision_language_row(row) for row in (CAPTION, QUESTION, GROUNDING)]
    assert tsv_writer.write(path, rows) == 3
    caption, question, grounding = source(path, "vision_language").open("train")
    for found, given in ((caption, CAPTION), (question, QUESTION), (grounding, GROUNDING)):
        for key in ("image", "image_id", "type"):
            assert found[key] == given[key]
    assert caption["captions"] == [caption["caption"]] == CAPTION["captions"]
    assert caption["objects"] == ["temple", "blue sky"]
    assert caption["dataset"] == "cc12m"
    assert question["question"] == QUESTION["question"]
    assert question["answers"] == QUESTION["answers"]
    assert question["answer_conf"] == [0.75, 0.25]
    assert question["objects"] == []
    np.testing.assert_array_equal(grounding["boxes"], np.float32(GROUNDING["boxes"]))
    assert grounding["boxes"].dtype == np.float32
    assert grounding["refexps"] == grounding["region_captions"] == ["the dog on the left"]
    assert grounding["refexp_box_index"] == [0]


def test_text_image_and_detection_round_trip(tmp_path):
    text = {"image_id": "t", "text": 'with\ttab, "quotes" and é 漢字'}
    [found] = written(tmp_path, tsv_writer.text_row(text), "text")
    assert found["text"] == 'with tab, "quotes" and é 漢字'

    codes = np.arange(256).reshape(16, 16) * 32
    image = {"image_id": "i", "image": picture(), "image_codes": codes}
    tsv_writer.write(tmp_path / "image.tsv", [tsv_writer.image_row(image)])
    [found] = source(tmp_path / "image.tsv", "image").open("train")
    np.testing.assert_array_equal(found["image_codes"], codes.reshape(-1))
    assert found["image"] == image["image"]

    boxes = np.array([[0, 1, 2, 3], [1.5, 0, 9, 6]], np.float32)
    labels = ["Traffic light", "cat, dog"]
    detection = {"image_id": "d", "image": picture(), "boxes": boxes, "labels": labels}
    tsv_writer.write(tmp_path / "detection.tsv", [tsv_writer.detection_row(detection)])
    [found] = source(tmp_path / "detection.tsv", "detection").open("train")
    np.testing.assert_array_equal(found["boxes"], boxes)
    assert found["labels"] == labels


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_base64_alphabets(tmp_path, encode):
    data = bytes(range(256))
    text = encode(data).decode()
    assert ("+" in text and "/" in text) != ("-" in text and "_" in text)
    [found] = written(tmp_path, f"x\t{text}\t1 2 3\n", "image")
    assert found["image"] == data


def test_types_are_chosen_by_the_last_column(tmp_path):
    path = tmp_path / "examples.tsv"
    rows = [tsv_writer.vision_language_row(row) for row in (CAPTION, QUESTION, GROUNDING, QUESTION)]
    tsv_writer.write(path, rows)
    for types, identifiers in (
        (("qa",), ["b|2", "b|2"]),
        (("caption", "visual_grounding"), ["a-1", "3"]),
        ((), ["a-1", "b|2", "3", "b|2"]),
    ):
        records = source(path, "vision_language", *types).open("train")
        assert len(records) == len(identifiers)
        assert [records[i]["image_id"] for i in range(len(records))] == identifiers
    tsv_writer.write(tmp_path / "captions.tsv", rows[:1])
    assert len(source(tmp_path / "captions.tsv", "vision_language", "qa").open("train")) == 0


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends(tmp_path, end):
    records = written(tmp_path, f"1\tone{end or chr(10)}2\ttwo{end}", "text")
    assert [records[i]["text"] for i in range(len(records))] == ["one", "two"]
    rows = "\r\n".join(tsv_writer.vision_language_row(row) for row in (CAPTION, QUESTION))
    path = tmp_path / "pairs.tsv"
    path.write_text(rows + end, newline="")
    assert [r["type"] for r in source(path, "vision_language", "qa").open("train")] == ["qa"]


def test_blank_lines_are_no_rows(tmp_path):
    records = written(tmp_path, b"1\tone\r\n\r\n\n2\ttwo\n\n", "text")
    assert [records[i]["text"] for i in range(len(records))] == ["one", "two"]
    with pytest.raises(IndexError):
        records[2]


@pytest.mark.parametrize(
    ("layout", "row", "message"),
    [
        ("text", "1\ttwo\tthree", "3 columns, layout 'text' has 2"),
        ("detection", "1\tQUJD", "2 columns, layout 'detection' has 3"),
        ("detection", "1\tQUJD\t1,2,3,4,dog", "'x0,y0,x1,y1,number,name'"),
        ("detection", "1\tQUJD\t1,2,x,4,0,dog", "a side of the box is 'x', not a number"),
        ("image", "1\tQUJD\t1 2 x", "a code is 'x', not a number"),
        ("image", "1\tQU!D\t1 2", "not base64"),
        ("vision_language", "1\tQUJD\tc\tq\tyes\t\t\tqa", r"'confidence\|!\+answer'"),
        ("vision_language", "1\tQUJD\tc\t\t1,2,3\t\t\tvisual_grounding", "'x0,y0,x1,y1'"),
    ],
)
def test_damaged_rows_name_file_and_line(tmp_path, layout, row, message):
    good = {
        "text": "0\tfine",
        "detection": "0\tQUJD\t1,2,3,4,0,dog",
        "image": "0\tQUJD\t1 2",
        "vision_language": "0\tQUJD\tc\t\t\t\t\tcaption",
    }[layout]
    records = written(tmp_path, f"{good}\n{good}\n{row}\n{good}\n", layout)
    assert len(records) == 4
    assert [records[i]["image_id"] for i in (0, 1, 3)] == ["0"] * 3
    with pytest.raises(TsvFormatError, match=message) as error:
        records[2]
    assert f"{tmp_path / 'examples.tsv'}, line 3: " in str(error.value)
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8_names_the_line(tmp_path):
    records = written(tmp_path, b"1\tone\n2\t\xff\xfe\n", "text")
    with pytest.raises(TsvFormatError, match="line 2: 'utf-8' codec"):
        records[1]


@pytest.mark.parametrize("types", [(), ("caption",), ("qa", "visual_grounding")])
def test_rows_whose_type_is_unknown_are_not_dropped_silently(tmp_path, types):
    good = "0\tQUJD\tc\t\t\t\t\tcaption\n"
    bad = "1\tQUJD\tc\t\t\t\tcc12m\n2\tQUJD\tc\t\t\t\tmade\tcaption\tmore\n"
    records = written(tmp_path, good + bad, "vision_language", *types)
    assert len(records) == (2 if "qa" in types else 3)
    with pytest.raises(TsvFormatError, match=r"line 3: 9 .*'vision_language' has 8"):
        records[len(records) - 1]
    with pytest.raises(TsvFormatError, match=r"line 2: 7 .*'vision_language' has 8"):
        records[len(records) - 2]
    (tmp_path / "other").mkdir()
    row = "1\tQUJD\tc\t\t\t\t\tcc12m\n"
    records = written(tmp_path / "other", good + row, "vision_language", *types)
    with pytest.raises(TsvFormatError, match=r"line 2: .*column is 'cc12m'"):
        records[len(records) - 1]


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.tsv .*not exist; .*text rows"):
        source(tmp_path / "nowhere.tsv", "text").open("train")
    with pytest.raises(TsvFormatError, match=r"examples\.tsv is empty"):
        len(written(tmp_path, b"", "text"))


def test_declarations_are_checked():
    with pytest.raises(ValueError, match=r"layout 'txt'; .*text"):
        source("x", "txt")
    with pytest.raises(ValueError, match=r"types \['vqa'\]; .*caption, qa"):
        source("x", "vision_language", "vqa")
    with pytest.raises(ValueError, match=r"'text' .*column of types"):
        source("x", "text", "caption")
    with pytest.raises(ValueError, match=r"type .*'vqa'"):
        tsv_writer.vision_language_row(CAPTION | {"type": "vqa"})


def test_rows_that_cannot_be_written_name_what_is_missing():
    with pytest.raises(ValueError, match=r"'vision_language' .*'question'; the"):
        tsv_writer.vision_language_row(CAPTION | {"type": "qa"})
    with pytest.raises(ValueError, match=r"'vqa' .*'image'; .*image_id"):
        tsv_writer.row("vqa", {key: QUESTION[key] for key in ("image_id", "question")})
    with pytest.raises(ValueError, match=r"2 answers .*1 answer_conf"):
        tsv_writer.row("vqa", QUESTION | {"answer_conf": [1.0]})
    with pytest.raises(ValueError, match=r"rte .*entailment, not 'ye"):
        tsv_writer.row("rte", {"image_id": "1", "sentence1": "a", "sentence2": "b", "label": "yes"})


def test_splits_and_directories(tmp_path, monkeypatch):
    monkeypatch.delenv("OFA_TEST_DIR", raising=False)
    (tmp_path / "train.tsv").write_text("1\ttrain\n")
    (tmp_path / "held_out.tsv").write_text("1\theld out\n")
    both = TsvSource(
        (("train", "{TEST_DIR}/train.tsv"), ("validation", "{TEST_DIR}/held_out.tsv")), "text"
    )
    with pytest.raises(ValueError, match=r"TEST_DIR; .*OFA_TEST_DIR"):
        both.open("train")
    monkeypatch.setenv("OFA_TEST_DIR", "elsewhere")  # so that it is restored afterwards
    locations.assign("TEST_DIR", str(tmp_path))
    assert both.open("validation")[0]["text"] == "held out"
    assert both.open("train")[0]["text"] == "train"
    with pytest.raises(ValueError, match=r"no test file .*train, validation"):
        both.open("test")
    again = pickle.loads(pickle.dumps(both.open("validation")))
    assert again[0]["text"] == "held out"


QUOTED = [
    'a "red" bus, says "hi"',
    "a caption\twith a tab",
    "line one\nline two",
    "a line\n\nafter a blank one\t\n\n",
    "plain",
    '"half a quotation',
    'an "inner" quotation',
]


def quoted_rows(quoting):
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=quoting)
    data = base64.b64encode(picture()).decode()
    for number, caption in enumerate(QUOTED):
        writer.writerow([number, data, caption, "", "", "sky&&tree", "cc12m", "caption"])
    return text.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("types", [(), ("caption",)])
def test_rows_of_a_csv_writer(tmp_path, quoting, types):
    records = written(tmp_path, quoted_rows(quoting), "vision_language", *types)
    found = [records[index] for index in range(len(records))]
    expected = [" ".join(caption.split()) for caption in QUOTED]
    assert [one["captions"] for one in found] == [[caption] for caption in expected]
    assert {one["image"] for one in found} == {picture()}
    assert [one["image_id"] for one in found] == [str(number) for number in range(len(QUOTED))]
    assert len(written(tmp_path, quoted_rows(quoting), "vision_language", "qa")) == 0


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
def test_line_ends_in_the_first_and_the_last_cell(tmp_path, end, mark):
    rows = [("one\n\ntwo", "the sum\nof it\n\nall"), ("three", "four"), ('"five"', "\n\nsix")]
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator=end).writerows(rows)
    path = tmp_path / "g.tsv"
    path.write_bytes((mark + text.getvalue()).encode())
    records = TsvSource(str(path), "gigaword").open("train")
    found = [(records[n]["text"], records[n]["summary"]) for n in range(len(records))]
    assert [tuple(" ".join(cell.split()) for cell in row) for row in found] == [
        tuple(" ".join(cell.split()) for cell in row) for row in rows
    ]


def test_an_open_quote_in_the_last_cell_swallows_no_row(tmp_path):
    path = tmp_path / "g.tsv"
    path.write_text('a b\t"stop\nc d\tgo"\ne f\tend\n')
    records = TsvSource(str(path), "gigaword").open("train")
    assert [records[n]["summary"] for n in range(3)] == ['"stop', 'go"', "end"]


def test_quotation_marks_that_no_writer_made_stay(tmp_path):
    texts = ['"stop"', '"stop" it says', 'it says "stop"', '"a" and "b"', '"', '""', 'one " only']
    rows = [
        tsv_writer.vision_language_row({**CAPTION, "captions": [text], "image_id": str(number)})
        for number, text in enumerate(texts)
    ]
    records = written(tmp_path, "\n".join(rows), "vision_language")
    assert [records[index]["captions"] for index in range(len(texts))] == [[one] for one in texts]
    # An open quote does not swallow rows that are whole, nor one with too few columns.
    records = written(tmp_path, f'{rows[6]}\n9\tQUJD\t"open\n{rows[0]}', "vision_language")
    assert len(records) == 3
    assert records[2]["captions"] == [texts[0]]
    with pytest.raises(TsvFormatError, match="line 2: 3 columns"):
        records[1]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_line_end(tmp_path, end):
    rows = [tsv_writer.vision_language_row(one) for one in (CAPTION, QUESTION)]
    records = written(tmp_path, end.join(rows).encode("utf-8-sig"), "vision_language")
    assert [records[index]["image_id"] for index in range(len(records))] == ["a-1", "b|2"]
    glue = written(tmp_path, f"sentence{end}".encode("utf-8-sig"), "sst2")
    assert len(glue) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gzip.compress, r"examples\.tsv is compressed \(gzip\): unpack it"),
        (bz2.compress, r"compressed \(bzip2\)"),
        (lzma.compress, r"compressed \(xz\)"),
        (lambda data: data.decode().encode("utf-16"), "UTF-16, not UTF-8: convert it with iconv"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, change, message):
    rows = tsv_writer.vision_language_row(CAPTION).encode()
    records = written(tmp_path, change(rows), "vision_language")
    with pytest.raises(TsvFormatError, match=message):
        len(records)


def test_regions_as_people_write_them(tmp_path):
    data = base64.b64encode(picture()).decode()
    regions = ["1,2,6,5", "[1, 2, 6, 5]", " 1 2 6 5 ", "(1;2;6;5)"]
    rows = [f"{n}\t{n}\tthe dog\t{region}\t{data}" for n, region in enumerate(regions)]
    records = written(tmp_path, "\n".join(rows), "refcoco")
    for index in range(len(regions)):
        np.testing.assert_array_equal(records[index]["boxes"], [[1, 2, 6, 5]])
    fractions = TsvSource(str(tmp_path / "f.tsv"), "refcoco", boxes="fractions")
    (tmp_path / "f.tsv").write_text(f"0\t0\tthe dog\t0.25,0.5,0.75,1\t{data}")
    expected = [[9 / 4, 3, 27 / 4, 6]]
    np.testing.assert_allclose(fractions.open("train")[0]["boxes"], expected)
    answers = f"0\t0\twhat?\t0.6|!+no&&\t\t{data}"
    found = written(tmp_path, answers, "vqa")[0]
    assert (found["answers"], found["answer_conf"]) == (["no"], [0.6])

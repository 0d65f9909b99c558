"""The inputs from the field in `../shared/cases`, prepared by the command that a user types."""

import json

import numpy as np
import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from tests.shared import requires_cases, shared_dir

pytestmark = requires_cases
CASES = shared_dir() / "cases"


def prepare(out, source, *arguments, **files):
    """Exit status, entry of the manifest and examples of a preparation of some cases."""
    words = [f"--{name}={CASES / path}" for name, path in files.items()]
    command = [f"--source={source}", *words, *arguments, f"--out={out}", "--processes=1"]
    status = run_prepare(command)
    if not (out / "manifest.json").exists():
        return status, {}, []
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    records = PreparedSource(str(out)).open("train") if entry["examples"] else []
    return status, entry, [records[index] for index in range(len(records))]


def counts(entry, name):
    found = entry[name]
    return {reason: one["count"] if isinstance(one, dict) else one for reason, one in found.items()}


NULLS = "json_null_text"


@pytest.mark.parametrize(
    ("source", "files", "field", "values", "left_out"),
    [
        ("coco_captions", {"annotations": "cap.json"}, "captions", [["a flower"], ["123"]],
         {"empty_text": 2, "bad_fields": 1}),
        ("karpathy", {"annotations": "k.json"}, "captions", [["a flower"], ["123"]],
         {"empty_text": 2}),
        ("vqa", {"questions": "q.json", "annotations": "a.json"}, "answers", [["yes"]],
         {"empty_text": 15, "bad_fields": 10, "no_answer": 3}),
        ("vqa", {"questions": "q2.json", "annotations": "a2.json"}, "question", ["ok?"],
         {"empty_text": 1}),
        ("gqa", {"questions": "gqa.json"}, "answers", [["yes"], ["7"]], {"no_answer": 2}),
        ("refcoco", {"refs": "refs.json", "instances": "inst.json"}, "refexps", [["temple"]],
         {"empty_text": 1}),
        ("visual_genome_regions", {"annotations": "vg.json"}, "refexps",
         [["a temple"], ["a flower"]], {"empty_text": 1}),
        ("visual_genome_objects", {"annotations": "vgo.json"}, "labels", [["man"], ["cat"]],
         {"empty_text": 1}),
        ("visual_genome_questions", {"annotations": "vgq.json"}, "question", ["ok?"],
         {"no_answer": 1, "empty_text": 1}),
        ("snli_ve", {"annotations": "s.jsonl"}, "hypothesis", ["ok"], {}),
    ],
)  # fmt: skip
def test_null_is_never_a_word(tmp_path, source, files, field, values, left_out):
    paths = {name: f"{NULLS}/{path}" for name, path in files.items()}
    status, entry, found = prepare(tmp_path / "out", source, images=f"{NULLS}/img", **paths)
    assert status == 0
    assert [one[field] for one in found] == values
    assert counts(entry, "left_out") == left_out
    assert "None" not in json.dumps([one.get(field) for one in found])


def test_null_is_never_a_word_in_texts(tmp_path):
    _, entry, found = prepare(tmp_path / "out", "text", paths=f"{NULLS}/t.jsonl")
    assert [one["text"] for one in found] == ["good text", "5", "nulchar"]
    assert counts(entry, "dropped") == {"empty_text": 2, "unreadable_record": 2}


@pytest.mark.parametrize(
    ("name", "boxes", "left_out"),
    [
        ("ok", [1, 1, 1, 1], {}),
        ("absent", [1, 1, 1, 1], {"no_box": 1}),
        ("empty", [1, 1, 1, 1], {"no_box": 1}),
        ("null", [1, 1, 1, 1], {"no_box": 1}),
        ("crowd", [1, 1, 1, 1], {}),
        ("crowdstr", [1, 2, 1, 1], {}),
        ("onlycrowd", [1, 1, 1], {}),
        ("zero", [1, 1, 1, 1], {}),
    ],
)
def test_boxes_as_they_are(tmp_path, name, boxes, left_out):
    files = {"annotations": f"coco_boxes/{name}.json", "images": "coco_boxes/img"}
    status, entry, found = prepare(tmp_path / "out", "coco_instances", **files)
    assert status == 0
    assert [len(one["boxes"]) for one in found] == boxes
    assert counts(entry, "left_out") == left_out
    removed = {"box_degenerate": 1} if name == "zero" else {}
    assert entry["removed_boxes"] == removed
    # The last image is a portrait, and the file calls all of them landscapes.
    assert entry["notes"] == {"other_shape": 1}


def test_no_box_at_all_is_told_at_once(tmp_path, capsys):
    files = {"annotations": "coco_boxes/absentall.json", "images": "coco_boxes/img"}
    assert prepare(tmp_path / "out", "coco_instances", **files)[0] == 2
    assert "left out: no_box 4" in capsys.readouterr().err


def test_resized_images_are_told(tmp_path, capsys):
    files = {"annotations": "json_size_mismatch/c.json", "images": "json_size_mismatch/img"}
    assert prepare(tmp_path / "out", "coco_instances", **files)[0] == 2
    message = capsys.readouterr().err
    assert "(other_size 2)" in message
    assert "640 x 427 pixels, it has 160 x 107: --scale_boxes=true" in message
    arguments = ("coco_instances", "--scale_boxes=true")
    status, _, found = prepare(tmp_path / "scaled", *arguments, **files)
    assert status == 0
    np.testing.assert_allclose(found[0]["boxes"], [[75, 25.06, 125, 75.18]], atol=0.1)


@pytest.mark.parametrize(
    ("source", "files", "arguments"),
    [
        ("coco_instances", {"annotations": "c.json", "images": "img"}, ()),
        ("tsv", {"paths": "r.tsv"}, ("--layout=refcoco",)),
        (
            "parquet",
            {"paths": "n.parquet"},
            ("--columns=image=image,boxes=b,refexps=e", "--constants=type=visual_grounding"),
        ),
    ],
)
def test_fractions_are_told(tmp_path, capsys, source, files, arguments):
    files = {name: f"boxes_normalised/{path}" for name, path in files.items()}
    status, *_ = prepare(tmp_path / "out", source, *arguments, **files)
    assert status == 2
    message = capsys.readouterr().err
    assert "(box_in_first_pixel 4)" in message
    assert "--boxes=fractions" in message
    arguments = (*arguments, "--boxes=fractions")
    status, _, found = prepare(tmp_path / "pixels", source, *arguments, **files)
    assert status == 0
    assert all(one["boxes"].max() > 50 for one in found)


def test_regions_in_brackets(tmp_path):
    files = {"paths": "boxes_normalised/br.tsv"}
    _, _, found = prepare(tmp_path / "out", "tsv", "--layout=refcoco", **files)
    assert [one["boxes"].tolist() for one in found] == [[[10, 20, 40, 60]]] * 4


@pytest.mark.parametrize(
    ("name", "kept", "left_out"),
    [
        ("ok.json", 4, {}),
        ("am.json", 4, {"missing_annotation": 1}),
        ("g.json", 4, {"not_one_target": 1}),
        ("gn.json", 4, {"not_one_target": 1}),
        ("im.json", 4, {"missing_annotation": 1}),
        ("ns.json", 4, {}),
        ("sp.json", 2, {}),
        ("refs_p2.p", 4, {}),
        ("refs_p5.p", 4, {}),
        ("refs_py2.p", 2, {}),
    ],
)
def test_expressions(tmp_path, name, kept, left_out):
    directory = "refcoco_quirks"
    files = {"instances": f"{directory}/instances.json", "images": f"{directory}/img"}
    status, entry, found = prepare(tmp_path, "refcoco", refs=f"{directory}/{name}", **files)
    assert (status, len(found)) == (0, kept)
    assert counts(entry, "left_out") == left_out


def test_expressions_of_wrong_pairs(tmp_path, capsys):
    directory = "refcoco_quirks"
    files = {"instances": f"{directory}/instances.json", "images": f"{directory}/img"}
    assert prepare(tmp_path / "a", "refcoco", refs=f"{directory}/mm.json", **files)[0] == 2
    assert "annotation 2 is of image 2, not 1" in capsys.readouterr().err
    files["instances"] = f"{directory}/inst_dup.json"
    _, entry, found = prepare(tmp_path / "b", "refcoco", refs=f"{directory}/ok.json", **files)
    assert [one["image_id"] for one in found] == ["2", "3", "4"]
    assert counts(entry, "left_out") == {"duplicated_id": 1}


@pytest.mark.parametrize(
    ("name", "columns", "field", "values", "dropped"),
    [
        ("b64", "image=image,captions=t", "captions", [["x"]] * 4, {}),
        ("capn", "image=image,captions=c", "captions", [["one"]], {"empty_text": 3}),
        ("caps", "image=image.bytes,captions=c", "captions", [["one", "two"], ["x"]],
         {"empty_text": 2}),
        ("cls", "image=image.bytes,label=label", "label", ["a", "b", "c"], {"undeclared_class": 1}),
        ("dict", "image=image,captions=t", "captions", [["x"], ["y"]] * 2, {}),
        ("dict", "image=image,captions=n", "captions", [["1"], ["2"], ["3.5"]], {"empty_text": 1}),
        ("img", "image=image.bytes,captions=text", "captions",
         [["a china"], ["a flower"], ["a rocket"], ["a grace"]], {}),
        ("imgs", "image=images[].bytes,captions=t", "captions", [["x"]] * 4, {}),
        ("vqa", "image=image,question=question,answers=answers[].answer", "answers",
         [["yes", "no"]] * 4, {}),
        ("vqa2", "image=image,question=question,answers=answers", "answer_conf", [[1, 0.6]] * 4,
         {}),
        ("box", "image=image,boxes=b,refexps=e", "refexp_box_index", [[0]],
         {"no_box": 2, "box_not_finite": 1}),
        ("box2", "image=image,boxes=b,refexps=e", "refexp_box_index", [[0]] * 4, {}),
        ("det", "image=image,boxes=objects.bbox,labels=objects.category", "labels",
         [["Coverall", "Gloves"]] * 4, {}),
        ("det2", "image=image,boxes=objects[].bbox,labels=objects[].category", "labels",
         [["Coverall", "Gloves"]] * 4, {}),
        ("det3", "image=image,boxes=bbox,labels=category", "labels", [["Gloves"]] * 4, {}),
    ],
)  # fmt: skip
def test_parquet_of_the_hub(tmp_path, name, columns, field, values, dropped):
    kinds = {"box": "visual_grounding", "det": "detection", "vqa": "qa", "cls": "classification"}
    kind = next((kinds[start] for start in kinds if name.startswith(start)), "caption")
    words = [f"--columns={columns}", f"--constants=type={kind}"]
    words += ["--box_form=xywh"] if kind == "detection" else []
    path = f"parquet_hub/{name}.parquet"
    status, entry, found = prepare(tmp_path / "out", "parquet", *words, paths=path)
    assert status == 0
    assert [one[field] for one in found] == values
    assert counts(entry, "dropped") == dropped


@pytest.mark.parametrize(
    ("name", "keys", "left_out"),
    [
        ("dots", ["22.00", "22.01", "22.02", "22.03"], {}),
        ("dotkey2", [f"img_{number}.final" for number in range(4)], {}),
        ("dotfolder", [f"train.v1/0{number}" for number in range(4)], {}),
        ("mixed", ["a0", "a.1", "a2", "a.3"], {}),
        ("named", ["s0", "s1", "s2", "s3"], {}),
        ("two", ["0", "1", "2", "3"], {"unread_file": 4}),
        ("order", ["0", "1", "2", "3"], {}),
        ("dup", ["b"], {"duplicated_id": 1}),
        ("misc", ["a", "b"], {"no_image": 1, "unread_file": 4}),
        ("caps", ["4"], {"no_image": 1}),
        ("unicode", ["été/ü"], {}),
    ],
)
def test_keys_of_tars(tmp_path, name, keys, left_out):
    path = f"webdataset_keys/{name}.tar"
    status, entry, found = prepare(tmp_path / "out", "webdataset", paths=path)
    assert status == 0
    assert [one["image_id"] for one in found] == keys
    assert counts(entry, "left_out") == left_out


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("webdataset", "hostile/negative_size.tar", "file a.jpg: a size of -512 bytes"),
        ("webdataset", "webdataset_keys/cut.tar", "is cut off or not an uncompressed tar"),
        ("webdataset", "webdataset_keys/empty.tar", "no sample with an image"),
        ("webdataset", "webdataset_keys/zero.tar", "(empty file)"),
        ("webdataset", "webdataset_keys/z.tar.gz", "unpack .tar.gz to .tar first"),
        ("coco_captions", "hostile/coco_cut.json", "at annotations[2]: not JSON"),
    ],
)
def test_files_that_are_none_are_named(tmp_path, capsys, source, path, message):
    images = {"images": "coco_boxes/img"} if source == "coco_captions" else {}
    name = "annotations" if images else "paths"
    assert prepare(tmp_path / "out", source, **images, **{name: path})[0] == 2
    found = capsys.readouterr().err
    assert f"{CASES / path}" in found
    assert message in found


LONG = "very_long_folder_name_" * 8


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("dirs", [f"0000{number}" for number in range(4)], {}),
        ("emptytxt", ["1"], {"empty_text": 1}),
        ("long", [f"{LONG}/0", f"{LONG}/1"], {}),
        ("longg", [f"{LONG}/0", f"{LONG}/1"], {}),
        ("s0", ["a"], {}),
        ("s1", ["a"], {}),
    ],
)
def test_tars_of_every_writer(tmp_path, name, kept, dropped):
    path = f"webdataset_keys/{name}.tar"
    status, entry, found = prepare(tmp_path / "out", "webdataset", paths=path)
    assert (status, [one["image_id"] for one in found]) == (0, kept)
    assert counts(entry, "dropped") == dropped
    assert entry["left_out"] == {}


def test_equal_keys_of_two_tars_are_two_samples(tmp_path):
    paths = f"{CASES}/webdataset_keys/s0.tar,{CASES}/webdataset_keys/s1.tar"
    status, _, found = prepare(tmp_path / "out", "webdataset", f"--paths={paths}")
    expected = [["caption of china"], ["caption of flower"]]
    assert (status, [one["captions"] for one in found]) == (0, expected)


@pytest.mark.parametrize(
    ("path", "images", "boxes", "lost"),
    [
        ("boxes_normalised/nan.json", "boxes_normalised/img", [[[10, 5, 30, 25]]] * 2,
         {"box_not_finite": 2}),
        ("hostile/coco_bigid.json", "boxes_normalised/img", [[[1, 2, 11, 13]]] * 2,
         {"unlisted_image": 1}),
    ],
)  # fmt: skip
def test_numbers_that_are_none(tmp_path, path, images, boxes, lost):
    files = {"annotations": path, "images": images}
    status, entry, found = prepare(tmp_path / "out", "coco_instances", **files)
    assert (status, [one["boxes"].tolist() for one in found]) == (0, boxes)
    assert counts(entry, "dropped") | counts(entry, "left_out") == lost


@pytest.mark.parametrize("name", ["seg", "cls"])
def test_masks_beside_images(tmp_path, name):
    _, entry, found = prepare(
        tmp_path / "out", "webdataset", "--kind=classification", paths=f"webdataset_keys/{name}.tar"
    )
    assert [one["label"] for one in found] == ["0", "1", "2", "3"]
    assert counts(entry, "left_out") == ({"unread_file": 4} if name == "seg" else {})


def test_rows_of_a_csv_writer(tmp_path):
    files = {"paths": "tsv_csvwriter/q.tsv"}
    _, entry, found = prepare(tmp_path / "out", "tsv", "--layout=vision_language", **files)
    assert [one["caption"] for one in found] == [
        'a "red" bus, says "hi"',
        "a caption with tab",
        "line one line two",
        "plain",
    ]
    assert entry["dropped"] == {}


def test_base64_in_every_form(tmp_path):
    pictures = {}
    for path in sorted((CASES / "b64_forms").glob("*.tsv")):
        status, _, found = prepare(
            tmp_path / path.stem, "tsv", "--layout=vision_language", paths=path
        )
        assert (status, len(found)) == (0, 4), path.stem
        pictures[path.stem] = [one["image"] for one in found]
    assert len(pictures) > 8
    assert all(found == pictures["urlsafe"] for found in pictures.values())


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("vqa/ok", 2, {}),
        ("vqa/odd", 5, {"bad_confidence": 1, "no_answer": 1, "unreadable_record": 5}),
        ("caption_stage1/captions", 6, {}),
        ("refcoco/regions", 6, {"box_inverted": 1, "unreadable_record": 1}),
        ("refcoco/swap", 1, {}),
    ],
)
def test_fine_tuning_files(tmp_path, name, kept, dropped):
    layout, _, stem = name.partition("/")
    path = f"finetune_tsv/{stem}.tsv"
    status, entry, found = prepare(tmp_path / "out", "tsv", f"--layout={layout}", paths=path)
    assert (status, len(found)) == (0, kept)
    assert counts(entry, "dropped") == dropped


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("b.jsonl.bz2", 5),
        ("m.jsonl.gz", 2),
        ("t.JSONL.GZ", 1),
        ("s.jsonl", 1),
        ("arr.json", "is one JSON array"),
        ("arr2.json", "is one JSON array"),
        ("cut.jsonl.gz", "the file is cut off or damaged"),
    ],
)
def test_texts(tmp_path, capsys, name, texts):
    status, _, found = prepare(tmp_path / "out", "text", paths=f"text_quirks/{name}")
    if isinstance(texts, int):
        assert (status, len(found)) == (0, texts)
    else:
        assert status == 2
        assert texts in capsys.readouterr().err


def test_the_tolerance_is_what_trains(tmp_path):
    files = {"annotations": "box_tolerance/c.json", "images": "box_tolerance/img"}
    arguments = ("coco_instances", "--box_tolerance=5")
    _, _, found = prepare(tmp_path / "out", *arguments, **files)
    assert [one["boxes"].tolist() for one in found] == [[[0, 10, 57, 70]], [[30, 10, 90, 70]]]
    _, entry, _ = prepare(tmp_path / "strict", "coco_instances", **files)
    assert counts(entry, "dropped") == {"box_outside": 1}


def test_a_repaired_file(tmp_path):
    rows = (CASES / "prepare_stale" / "vl.tsv").read_text()
    path = tmp_path / "vl.tsv"
    command = ("tsv", "--layout=vision_language")
    path.write_text(rows.replace("\n", "\t\n"))
    assert prepare(tmp_path / "out", *command, paths=path)[0] == 2
    path.write_text(rows)
    status, entry, found = prepare(tmp_path / "out", *command, paths=path)
    assert (status, len(found), entry["dropped"]) == (0, 8, {})

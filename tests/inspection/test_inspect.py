"""The command: summary, files, token ids; and one line for what cannot be shown."""

import html
import re

import numpy as np
import pytest
from PIL import Image

from ofa_jax import inspect as command
from ofa_jax import vocab
from ofa_jax.cli import shell
from ofa_jax.data.sources.array_record import shard_name, write_shard
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.inspection import sheet, tokens
from ofa_jax.scenes.source import ScenesSplits
from tests.data.sources.photographs import annotated
from tests.shared import gpt2_dir, requires_gpt2

LENGTHS = {"inputs": 64, "targets": 64, "image": 32}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    for name in ("VOCAB_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"OFA_{name}", "")  # as good as unset, and restored at the end


def scenes_task(name):
    import tasks.scenes  # noqa: F401  (registers the tasks)

    return lookup(f"scenes_{name}")[0][0]


# Token ids.


def test_ids_are_those_of_training():
    task = scenes_task("visual_grounding")
    records = ScenesSplits("tiny").open("train")
    wanted = {number: records[number] for number in (0, 5, 9)}
    view = tokens.view(task, wanted, LENGTHS, seed=3, most=2)
    assert view.matches
    assert [one.record for one in view.examples] == [0, 5]
    for one in view.examples:
        features = task.read(records, one.record, LENGTHS, seed=3)
        assert [piece.token_id for piece in one.inputs] == features["inputs"].tolist()
        assert [piece.token_id for piece in one.targets] == features["targets"].tolist()
        np.testing.assert_array_equal(one.image, features["image"])
        assert [piece.text for piece in one.targets[-1:]] == ["</s>"]
        assert "".join(p.text for p in one.inputs[1:-1]) == one.source_text
        box = task.prepared(
            records[one.record], task.rng(3, 0, one.record), LENGTHS, train=True
        )["region"]  # fmt: skip
        assert one.regions.shape == (1, 4)
        # A bin of the tiny world is two pixels wide.
        assert np.abs(one.regions[0] - box).max() <= 1.1


def test_boxes_of_several_objects_and_hidden_middles():
    records = ScenesSplits("tiny").open("train")
    first = {number: records[number] for number in range(10)}
    detection = tokens.view(scenes_task("detection"), first, LENGTHS, most=10)
    for one in detection.examples:
        assert len(one.regions) == len(records[one.record]["boxes"])
    [infilling] = tokens.view(scenes_task("image_infilling"), first, LENGTHS, most=1).examples
    assert (infilling.image[8:24, 8:24] == 128).all()
    assert (infilling.image[:8] == records[0]["image"][:8]).all()
    assert {piece.text[:6] for piece in infilling.targets[:-1]} == {"<code_"}


def test_tasks_that_do_not_fit_say_why():
    texts = {0: {"text": "only text", "type": "text"}}
    [fits, other] = tokens.views(
        [scenes_task("vqa"), scenes_task("text_infilling")], texts, LENGTHS
    )
    assert fits.matches
    assert fits.task.family == "text_infilling"
    assert not other.matches
    assert other.refusal == "there is no field 'qa'"


def test_untrained_tokens_are_marked():
    tokenizer = scenes_task("vqa").tokenizer()
    ids = [*tokenizer.encode_text(" a red circle"), vocab.EOS_ID]
    weights = [0.0, *[1.0] * (len(ids) - 1)]
    found = tokens.pieces(ids, tokenizer, weights)
    assert [piece.trained for piece in found] == [False, *[True] * (len(ids) - 1)]
    no_boxes = tokens.regions_of([*ids, tokenizer.layout.bin_start], tokenizer)
    assert no_boxes.shape == (0, 4)


# Images.


def test_tiles_and_sheets(tmp_path):
    one = annotated()[0]
    boxes = np.array([one.box, one.second_box, (0, 0, np.nan, 5)], np.float32)
    example = {
        "image": one.image,
        "image_id": "temple",
        "captions": list(one.captions),
        "question": "how many?",
        "answers": ["1", "2"],
        "answer_conf": [1.0, 0.3],
        "boxes": boxes,
        "labels": ["temple", "sky", "nothing"],
        "type": "detection",
    }
    tile = sheet.tile(3, example)
    assert tile.size == (one.width, one.height)
    assert tile.hidden_boxes == 1
    lines = {(words.name, words.text) for words in tile.words}
    assert ("caption", one.captions[0]) in lines
    assert ("", "and 1 more caption") in lines
    assert ("answer", "1, 2 (0.3)") in lines
    plain = sheet.tile(3, example | {"boxes": boxes[:0]})
    assert np.asarray(tile.picture).shape == np.asarray(plain.picture).shape
    assert (np.asarray(tile.picture) != np.asarray(plain.picture)).any(), "boxes are drawn"
    broken = sheet.tile(4, example | {"image": b"no image"})
    assert broken.picture is None
    assert "cannot decode" in broken.trouble
    text = sheet.tile(5, {"text": "a " * 300, "type": "text"})
    assert sheet.save_sheet([tile, broken, text], tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 600
    assert not sheet.save_sheet([], tmp_path / "none.png")


def test_expressions_name_their_boxes():
    example = {
        "boxes": np.array([[0, 0, 9, 9], [0, 0, 2, 2]], np.float32),
        "refexps": ["the small one", "the large one"],
        "refexp_box_index": [1, 0],
    }
    drawn, hidden = sheet.boxes_to_draw(example)
    assert [box.label for box in drawn] == ["the large one", "the small one"]
    assert hidden == 0
    many = {"boxes": np.tile(np.array([[0, 0, 5, 5]], np.float32), (40, 1))}
    drawn, hidden = sheet.boxes_to_draw(many)
    assert len(drawn) + hidden == 40
    assert hidden > 20


# The command.


def test_scenes_as_a_whole(tmp_path, capsys):
    arguments = ["scenes", "--limit=12", "--examples=4", "--token_examples=1"]
    assert command.main([*arguments, f"--out={tmp_path / 'out'}"]) == 0
    text = capsys.readouterr().out
    assert "records      24,000, looked at 12 evenly spread ones" in text
    assert "faults: none" in text
    task = scenes_task("captioning")
    ids = task.read(ScenesSplits("tiny").open("train"), 0, LENGTHS, seed=0)["inputs"].tolist()
    assert " ".join(map(str, ids)) in text
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"index.html", "images.png", "texts.png", "examples.png", "summary.txt"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page), "the page needs no other file"
    assert "<script" not in page
    for name in ("scenes_captioning", "scenes_image_infilling", "scenes_grounded_vqa"):
        assert f"<h2>{name}</h2>" in page
    assert html.escape(task.instructions[0].text) in page
    assert (tmp_path / "out" / "summary.txt").read_text() in text


def test_without_vocabulary_the_rest_is_shown(tmp_path, capsys):
    rows = [{"text": f"text <b>{number}</b>", "type": "text"} for number in range(3)]
    write_shard(tmp_path / "pile" / shard_name("train", 0, 1), rows)
    assert command.main([str(tmp_path / "pile"), f"--out={tmp_path / 'out'}"]) == 0
    text = capsys.readouterr().out
    assert "Token ids are not shown" in text
    assert "--vocab_dir=DIRECTORY" in text
    page = (tmp_path / "out" / "index.html").read_text()
    assert "text <b>" not in page, "texts of the data are escaped"
    assert not (tmp_path / "out" / "images.png").exists()


@requires_gpt2
def test_a_slot_shows_its_own_tasks(tmp_path, capsys):
    one = annotated()[0]
    row = {"image": one.image, "image_id": "1", "captions": ["a temple"], "type": "caption"}
    write_shard(tmp_path / "cc12m" / shard_name("train", 0, 1), [row] * 2)
    negatives = tmp_path / "negative_sample"
    negatives.mkdir()
    (negatives / "all_captions.txt").write_text("a cat\na dog\n")
    (negatives / "object.txt").write_text("cat\ndog\n")
    vocabulary = gpt2_dir()
    arguments = [f"--vocab_dir={vocabulary}", "--image_size=64", f"--out={tmp_path / 'out'}"]
    assert command.main([str(tmp_path / "cc12m"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "task cc12m_captioning: [IMAGE:image] what does the image describe?" in text
    assert "1 99 473 5 2274 6190 116 2" in text, "the ids of SPEC 3.1"
    assert "task cc12m_image_text_matching" in text
    page = (tmp_path / "out" / "index.html").read_text()
    assert "untrained" in page, "the first two words of cc12m are not in the loss"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist; PATH is a file or directory of data, or one of"),
        (
            ["scenes", "--limit=0"],
            "limit must be a whole number from 1 to 1,000,000,000,000 or None",
        ),
        (
            ["scenes", "--image_size=-4"],
            "image_size must be a whole number from 1 to 65,536 or None, go",
        ),
        (["scenes", "--split=tset"], "unknown split 'tset'"),
        (["scenes", "--tasks=scenes_vqaa"], "--tasks: no task or mixture named 'scenes_vqaa'; did"),
        (["scenes", "--module=tasks.nothing"], "--module: no module 'tasks.nothing'"),
        (["scenes", "extra"], "'extra' is not --NAME=VALUE"),
        (["scenes", "--layout"], "--layout has no value"),
        (["x", "--source=tvs", "--layout=text"], "unknown format 'tvs'; did you mean tsv?"),
        (["x", "--source=tsv"], "format 'tsv' needs layout"),
        (["x", "--source=tsv", "--layout=text", "--colums=a"], "did you mean columns?"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    [line] = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert captured.out == ""
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_formats_are_listed(capsys):
    assert command.main(["--formats"]) == 0
    assert "webdataset: uncompressed tars" in capsys.readouterr().out

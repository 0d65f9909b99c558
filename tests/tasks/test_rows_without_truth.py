"""Files of test splits lack the truth: their rows are predicted by every task, trained by none."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import tasks.captioning
import tasks.chinese
import tasks.gigaword
import tasks.glue
import tasks.image_generation
import tasks.imagenet
import tasks.ocr
import tasks.pretrain
import tasks.refcoco
import tasks.snli_ve
import tasks.vqa
import tasks.zero_shot  # noqa: F401
from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.batches.pipeline import evaluation_row
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.sources.tsv_layouts import layout
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.evaluation import scorers
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import BOS_ID, EOS_ID, PAD_ID, UNK_ID, VocabLayout, swap_official_ids
from tests.shared import gpt2_dir, requires_gpt2, shared_dir

CASES = shared_dir() / "cases" / "official"
requires_cases = pytest.mark.skipif(
    not CASES.is_dir(),
    reason="needs the cases from the field and the GPT-2 vocabulary",
)
LENGTHS = {"inputs": 96, "targets": 128, "image": 32}
SCALE = np.array([32 / 40, 32 / 30] * 2)  # of boxes, from 40 x 30 pixels to the model's input


def image(width=40, height=30):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(autouse=True)
def directories(monkeypatch, tmp_path):
    text = TrainedBPE.train(["what does the image describe? a red square"], num_merges=30)
    Tokenizer(text, VocabLayout(num_text=text.num_text, num_codes=64)).save(tmp_path / "vocab")
    monkeypatch.setenv("OFA_VOCAB_DIR", str(tmp_path / "vocab"))
    monkeypatch.setenv("OFA_DATA_DIR", str(tmp_path))
    (tmp_path / "class2label_new.pkl").write_bytes(b"(lp0\nVred square\np1\na.")
    (tmp_path / "trainval_ans2label.pkl").write_bytes(b"(lp0\nVred\np1\na.")
    return tmp_path


def records(directory, kind, cells, columns=()):
    path = directory / "rows.tsv"
    path.write_text("\t".join(cells) + "\n")
    return TsvSource((("test", str(path)),), kind, columns=columns).open("test")


# Task -> layout, cells of a row whose truth is empty.
ROWS = {
    "caption_coco": ("caption_stage1", ["1", "2", "", "", image()]),
    "caption_coco_scst": ("caption_stage2", ["1", "2", " ", "", image()]),
    "caption_muge": ("caption_muge", ["1", image(), ""]),
    "refcoco": ("refcoco", ["1", "2", "a dog", "", image()]),
    "zero_shot_refcocog": ("refcoco", ["1", "2", "a dog", " ", image()]),
    "refcoco_cn": ("refcoco_cn", ["1", "红色方块", "", image()]),
    "vqa": ("vqa", ["1", "2", "what?", "", "sky", image()]),
    "vqa_open": ("vqa", ["1", "2", "what?", " ", "", image()]),
    "zero_shot_vqa": ("vqa", ["1", "2", "what?", "", "", image()]),
    "snli_ve": ("snli_ve", ["1", "2", image(), "a", "b", ""]),
    "zero_shot_snli_ve": ("snli_ve", ["1", "2", image(), "a", "b", " "]),
    "imagenet": ("imagenet", [image(), "", ""]),
    "text_to_image": ("image_gen", ["1", "", "a dog"]),
    "gigaword": ("gigaword", ["an article", ""]),
    "ocr_cn": ("ocr", ["1", image(), ""]),
    "ocr_en": ("ocr", ["1", image(), " "]),
    "glue_cola": ("cola", ["x", "a", ""]),
    "glue_mnli": ("mnli", ["a", "b", "-1"]),
    "glue_mrpc": ("mrpc", ["a", "b", ""]),
    "glue_qnli": ("qnli", ["1", "a", "b", ""]),
    "glue_qqp": ("qqp", ["1", "2", "3", "a", "b", ""]),
    "glue_rte": ("rte", ["1", "a", "b", "-1"]),
    "glue_sst2": ("sst2", ["a", ""]),
    "zero_shot_sst2": ("sst2", ["a", ""]),
}
# Layout -> column of the truth.
TRUTH = {
    **dict.fromkeys(("caption_stage1", "caption_stage2", "caption_muge"), "caption"),
    "refcoco": "region",
    "refcoco_cn": "region",
    "vqa": "answers",
    "image_gen": "codes",
    "gigaword": "summary",
    "ocr": "text",
}
_PAIR = ("image_id", image(), "a dog", "what?", "", "dog", "set")
PRETRAINING_ROWS = {
    "ofa_visual_grounding": ("vision_language", [*_PAIR, "visual_grounding"]),
    "ofa_vqa": ("vision_language", [*_PAIR, "qa"]),
    "ofa_captioning": ("vision_language", ["1", image(), "", "", "", "", "", "caption"]),
    "ofa_detection": ("detection", ["1", image(), ""]),
    "ofa_image_infilling": ("image", ["1", image(), ""]),
}


def check(name, rows):
    [(task, _)] = lookup(name)
    example, row = evaluation_row(task, rows, 0, LENGTHS, seed=0)
    assert not task.has_truth(example)
    assert not scorers.has_truth(task, example)
    assert not row["decoder_loss_weights"].any()
    source = row["encoder_input_tokens"]
    assert (source[0], source[source != PAD_ID][-1]) == (BOS_ID, EOS_ID)
    if task.instructions[0].image_slot is not None:
        assert row["encoder_image_masks"]
    with pytest.raises(InstructionError, match=r"to learn from|has no caption|no field 'boxes'"):
        task.read(rows, 0, LENGTHS, seed=0)


@pytest.mark.parametrize("has_column", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_fine_tuning_tasks(directories, name, has_column):
    kind, cells = ROWS[name]
    columns = layout(kind).columns
    if not has_column:
        truth = TRUTH.get(kind, "label")
        cells = [cell for cell, column in zip(cells, columns) if column != truth]
        columns = tuple(column for column in columns if column != truth)
    check(name, records(directories, kind, cells, columns))


@pytest.mark.parametrize(
    "name", ["caption_coco", "refcoco", "vqa", "snli_ve", "ocr_cn", "gigaword"]
)
def test_prepared_rows(directories, name):
    kind, cells = ROWS[name]
    records(directories, kind, cells)
    command = [f"--paths={directories}/rows.tsv", f"--out={directories}/out", "--processes=1"]
    assert run_prepare(["--source=tsv", f"--layout={kind}", "--split=test", *command]) == 0
    check(name, PreparedSource(f"{directories}/out").open("test"))


@pytest.mark.parametrize("name", PRETRAINING_ROWS)
def test_pretraining_tasks(directories, name):
    check(name, records(directories, *PRETRAINING_ROWS[name]))


class Rows(list):
    """Records of a prepared data set."""


def test_regions_without_descriptions_are_described():
    """Grounded captioning needs the box, not its text; without either there is nothing to ask."""
    [(task, _)] = lookup("ofa_grounded_captioning")
    pixels = base64.b64decode(image())
    boxes = np.array([[4.0, 3.0, 20.0, 24.0]], np.float32)
    example, _ = evaluation_row(task, Rows([{"image": pixels, "boxes": boxes}]), 0, LENGTHS, seed=0)
    np.testing.assert_allclose(example["region"], boxes[0] * SCALE, rtol=1e-6)
    assert not task.has_truth(example)
    assert not scorers.has_truth(task, example)
    with pytest.raises(InstructionError, match="has no referring expression"):
        task.read(Rows([{"image": pixels, "boxes": boxes}]), 0, LENGTHS, seed=0)
    with pytest.raises(InstructionError, match="has no referring expression"):
        evaluation_row(task, Rows([{"image": pixels}]), 0, LENGTHS, seed=0)
    unknown_place = Rows([{"image": pixels, "refexps": ["a dog"]}])
    with pytest.raises(InstructionError, match="no field 'region'"):
        evaluation_row(task, unknown_place, 0, LENGTHS, seed=0)


def test_rows_with_truth_keep_it(directories):
    [(task, _)] = lookup("refcoco")
    rows = records(directories, "refcoco", ["1", "2", "a dog", "10,6,30,24", image()])
    example, row = evaluation_row(task, rows, 0, LENGTHS, seed=0)
    assert task.has_truth(example)
    assert row["decoder_loss_weights"].sum() == 5
    trained = task.read(rows, 0, LENGTHS, seed=0)
    assert trained["targets"].tolist() == row["decoder_target_tokens"][:5].tolist()


@pytest.mark.parametrize("task", ["cola", "sst2", "qnli", "mnli", "qqp", "mrpc"])
def test_headers_of_test_files_are_no_rows(directories, task):
    """GLUE's test files begin with names of columns, none of them of a label."""
    header = {
        "cola": ("_ sentence1", "index\tsentence"),
        "sst2": ("_ sentence1", "index\tsentence"),
        "qnli": ("_ sentence1 sentence2", "index\tquestion\tsentence"),
        "mnli": ("_ sentence1 sentence2", "index\tsentence1\tsentence2"),
        "qqp": ("_ sentence1 sentence2", "id\tquestion1\tquestion2"),
        "mrpc": ("_ _ _ sentence1 sentence2", "index\t#1 ID\t#2 ID\t#1 String\t#2 String"),
    }[task]
    columns = tuple(header[0].split())
    path = directories / "test.tsv"
    path.write_text(header[1] + "\n" + "\t".join("abcde"[: len(columns)]) + "\n")
    rows = TsvSource((("test", str(path)),), task, columns=columns).open("test")
    assert len(rows) == 1
    assert rows[0]["sentence1"] in "abcde"


CELLS = ["sky", " sky && tree ", "&&sky", "sky&&", "", "   ", "a&&b c&&d", "&&".join("wxyz" * 9)]


@requires_gpt2
@pytest.mark.parametrize("cell", CELLS)
def test_objects_of_questions(directories, monkeypatch, cell):
    """Question and objects as the official task spells them, where nothing was found too."""
    monkeypatch.setenv("OFA_VOCAB_DIR", str(gpt2_dir()))
    tokenizer = load_tokenizer(gpt2_dir())
    rows = records(directories, "vqa", ["1", "2", "Is it Red-ish ?", "", cell, image()])
    [(task, _)] = lookup("vqa")
    _, row = evaluation_row(task, rows, 0, LENGTHS, seed=0)
    names = " ".join(cell.strip().split("&&")[:30])
    question, objects = map(tokenizer.encode_text, (" is it red ish ?", f" object: {names}"))
    ids = row["encoder_input_tokens"]
    assert ids[ids != PAD_ID].tolist() == [BOS_ID, *question, *objects, EOS_ID]
    # Without the column, as zero-shot without objects: the question alone.
    columns = ("example_id", "image_id", "question", "_", "_", "image")
    rows = records(directories, "vqa", ["1", "2", "Is it Red-ish ?", "", cell, image()], columns)
    _, row = evaluation_row(task, rows, 0, LENGTHS, seed=0)
    ids = row["encoder_input_tokens"]
    assert ids[ids != PAD_ID].tolist() == [BOS_ID, *question, EOS_ID]


@pytest.mark.parametrize("box", ["-0.4,0,41,31", "0.5,-0.9,40.25,30"])
def test_boxes_at_the_border(directories, box):
    """They are learnt unclipped where there are bins, and are the truth as they stand."""
    [(task, _)] = lookup("refcoco")
    rows = records(directories, "refcoco", ["1", "2", "a dog", box, image()])
    example, row = evaluation_row(task, rows, 0, LENGTHS, seed=0)
    scaled = np.array(box.split(","), float) * SCALE
    np.testing.assert_allclose(example["region"], scaled, rtol=1e-5)
    bins = np.maximum(np.rint(scaled / 512 * 999), 0)
    start = task.tokenizer().layout.bin_start
    assert (row["decoder_target_tokens"][:4] - start).tolist() == bins.tolist()


@requires_cases
def test_questions_with_objects_equal_the_official_ids(directories, monkeypatch):
    monkeypatch.setenv("OFA_VOCAB_DIR", str(gpt2_dir()))
    [(task, _)] = lookup("vqa")
    cases = json.loads((CASES / "vqa_objects.json").read_text())["cases"]
    for case in cases:
        cells = ["1", "2", case["question"], "", case["objects"], image()]
        _, row = evaluation_row(task, records(directories, "vqa", cells), 0, LENGTHS, seed=0)
        ids = row["encoder_input_tokens"]
        official = swap_official_ids(np.array(case["official_source_ids"]))
        assert ids[ids != PAD_ID].tolist() == official.tolist(), case


@requires_cases
def test_boxes_at_the_border_equal_the_official_bins(directories, monkeypatch):
    """Except for `<unk>`, which is the first bin here (docs/differences.md)."""
    monkeypatch.setenv("OFA_VOCAB_DIR", str(gpt2_dir()))
    [(task, _)] = lookup("refcoco")
    for case in json.loads((CASES / "refcoco_box_outside.json").read_text())["cases"]:
        cells = ["1", "2", "a dog", case["box"], image(*case["size"])]
        lengths = {**LENGTHS, "image": case["patch_image_size"]}
        rows = records(directories, "refcoco", cells)
        found = task.read(rows, 0, lengths, seed=0)["targets"]
        official = np.array(case["official_target_ids"])
        start = task.tokenizer().layout.bin_start
        assert found.tolist() == np.where(official == UNK_ID, start, official).tolist(), case


@pytest.mark.skipif(
    not (CASES.parent / "refcoco").is_dir(), reason="needs the cases from the field"
)
def test_regions_of_the_field():
    path = CASES.parent / "refcoco" / "empty_region" / "refcoco_val.tsv"
    rows = TsvSource((("validation", str(path)),), "refcoco").open("validation")
    [(task, _)] = lookup("refcoco")
    assert len(rows) == 8
    for number in range(8):
        example, _ = evaluation_row(task, rows, number, LENGTHS, seed=0)
        assert not task.has_truth(example)

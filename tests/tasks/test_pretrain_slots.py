"""Slots of the pretraining data: their tasks, their ids, what is said where data are missing."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import mixtures.pretrain
from mixtures import rates
from ofa_jax import vocab
from ofa_jax.data.sources.array_record import shard_name, write_shard
from ofa_jax.data.sources.formats import FORMATS
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.runs import rates as slots
from tasks import families, pretrain
from tasks.pretrain_slots import SLOTS
from tests.shared import gpt2_dir, requires_gpt2

LENGTHS = {"inputs": 120, "targets": 257, "image": 64}


def jpeg(width=96, height=72):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = jpeg()
BOXES = np.array([[3, 6, 48, 36], [48, 18, 90, 66]], np.float32)
# One record with everything that a task may ask for.
RECORD = {
    "image": PICTURE,
    "image_id": "street-1",
    "captions": ["A dog, near the <person>"],
    "question": "How many dogs?",
    "answers": ["two", "2"],
    "answer_conf": [0.3, 0.9],
    "boxes": BOXES,
    "labels": ["dog", "street lamp"],
    "region_captions": ["A dog, near the <person>"] * 2,
    "refexps": ["The Lamp"],
    "refexp_box_index": [1],
    "image_codes": np.arange(256, dtype=np.int32),
    "text": " A Sentence of several words, in which some are hidden ",
    "dataset": "whatever",
    "type": "detection",
}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("OFA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("OFA_VOCAB_DIR", str(gpt2_dir()))
    negatives = tmp_path / "negative_sample"
    negatives.mkdir()
    (negatives / "all_captions.txt").write_text("a cat on a roof\na bird\n")
    (negatives / "object.txt").write_text("dog\ncat\n")
    (negatives / "type2ans.json").write_text(json.dumps({"other": ["red", "blue"]}))
    return tmp_path


def fill(data_dir, *names):
    for name in names:
        write_shard(data_dir / name / shard_name("train", 0, 1), [RECORD, RECORD])


def task_of(name):
    return lookup(name)[0][0]


def test_every_slot_says_what_belongs_into_it():
    assert len({slot.name for slot in SLOTS}) == len(SLOTS) == 19
    for slot in SLOTS:
        for text in (slot.title, slot.format, *slot.files, slot.obtain, slot.licence):
            assert text.strip()
        assert slot.format in FORMATS
        assert slot.samples.keys() <= families.FAMILIES.keys()
        assert all(count > 0 for count in slot.samples.values())
        for name in slot.tasks:
            task = task_of(name)
            kind = families.FAMILIES[name.removeprefix(f"{slot.name}_")]
            assert task.family == kind.family
            assert task.instructions[0].text == kind.instruction
            assert task.source.directory == f"{{DATA_DIR}}/{slot.name}"
    assert {kind for slot in SLOTS for kind in slot.samples} == families.FAMILIES.keys()


def test_both_mixtures_share_their_chains():
    for kind, source in pretrain.SOURCES.items():
        of_files = task_of(f"ofa_{kind}")
        assert of_files.source == source
        of_slot = task_of(next(f"{s.name}_{kind}" for s in SLOTS if kind in s.samples))
        assert of_slot.prepare[-len(of_files.prepare) :] == of_files.prepare
        assert of_slot.instructions == of_files.instructions
        assert (of_slot.scorer, of_slot.loss_weight) == (of_files.scorer, of_files.loss_weight)


def test_rates_of_a_family_are_divided_by_samples():
    official = rates.official_rates()
    by_task = dict(mixtures.pretrain.rates_of_slots(official))
    assert sum(by_task.values()) == pytest.approx(sum(official.values()))
    ratio = by_task["cc12m_captioning"] / by_task["cc3m_captioning"]
    assert ratio == pytest.approx(12.4 / 3.3)
    captions = sum(rate for name, rate in by_task.items() if name.endswith("_captioning"))
    regions = sum(rate for name, rate in by_task.items() if name.endswith("grounded_captioning"))
    assert captions - regions == pytest.approx(official["captioning"])


@requires_gpt2
@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        (
            "refcoco_visual_grounding",
            ' which region does the text " the lamp " describe?',
            ("<bin_62>", "<bin_31>", "<bin_117>", "<bin_114>"),
        ),
        (
            "vg_regions_grounded_captioning",
            "  what does the region describe? region: <bin_62><bin_31><bin_117><bin_114>",
            " the lamp",
        ),
        ("vqav2_vqa", " how many dogs?", " 2"),
        ("cc12m_captioning", " what does the image describe?", " a dog, near the person"),
        (
            "coco_objects_detection",
            " what are the objects in the image?",
            (
                *("<bin_4>", "<bin_10>", "<bin_62>", "<bin_62>", " dog"),
                *("<bin_62>", "<bin_31>", "<bin_117>", "<bin_114>", " street lamp"),
            ),
        ),
    ],
)
def test_prepared_records_become_the_official_ids(data_dir, name, source, target):
    # 96 x 72 pixels become 64 x 64: boxes times 2/3 and 8/9, then times 999 / 512.
    slot = next(slot.name for slot in SLOTS if name in slot.tasks)
    fill(data_dir, slot)
    task = task_of(name)
    features = task.read(task.source.open("train"), 0, LENGTHS, seed=0, train=False)
    tokenizer = task.tokenizer()
    pieces = [target] if isinstance(target, str) else target
    ids = [token for piece in pieces for token in tokenizer.encode(piece)]
    encoded = tokenizer.encode(source)
    assert features["inputs"].tolist() == [vocab.BOS_ID, *encoded, vocab.EOS_ID]
    assert features["targets"].tolist() == [*ids, vocab.EOS_ID]
    assert features["image"].shape == (64, 64, 3)


@requires_gpt2
@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_every_task_of_every_slot_trains_on_its_records(data_dir, slot):
    fill(data_dir, slot.name)
    for name in slot.tasks:
        task = task_of(name)
        features = task.read(task.source.open("train"), 1, LENGTHS, seed=3)
        weights = features["loss_weights"]
        assert len(weights) == len(features["targets"])
        if name == "cc12m_captioning":
            assert weights.tolist()[:3] == [0, 0, 1], "the first two tokens are not trained"
        elif task.family in ("vqa",) or "answer_matching" in name:
            assert np.allclose(weights, 0.9)
        else:
            assert set(weights.tolist()) == {task.loss_weight}


def test_a_region_is_drawn_before_the_crop(data_dir):
    record = RECORD | {"refexps": ["left", "right"], "refexp_box_index": [0, 1]}
    write_shard(data_dir / "refcoco" / shard_name("train", 0, 1), [record])
    task = task_of("refcoco_visual_grounding")
    records = task.source.open("train")
    found = set()
    for seed in range(20):
        example = task.prepared(records[0], task.rng(seed, 0, 0), LENGTHS, train=True)
        x0, _, x1, _ = example["region"]
        assert 0 <= x0 < x1 <= 64, "the crop is centered on the region that the text names"
        found.add(example["caption"])
    assert found == {"left", "right"}


# Data that are not there.


def tasks_of(name="ofa_pretrain", **changes):
    return [task for task, _ in slots.change_rates(lookup(name), changes)]


def test_all_missing_slots_are_named_at_once(data_dir):
    fill(data_dir, "cc12m", "coco_captions", "vqav2")
    with pytest.raises(ValueError, match=r"'ofa_pretrain' has no train data for") as error:
        slots.check_presence(tasks_of(), "train", "ofa_pretrain")
    message = str(error.value)
    assert "\n" not in message
    assert f"(no such directory in {data_dir})" in message
    zeros = message.partition("DatasetConfig.rates = ")[2]
    left_out = json.loads(zeros.strip('"').replace("'", '"'))
    assert left_out.keys() == {slot.name for slot in SLOTS} - {"cc12m", "coco_captions", "vqav2"}
    rest = tasks_of(**left_out)
    slots.check_presence(rest, "train", "ofa_pretrain")
    assert len(rest) == 6


def test_an_empty_directory_has_its_own_reason(data_dir):
    fill(data_dir, *(slot.name for slot in SLOTS if slot.name not in ("sbu", "gqa")))
    (data_dir / "sbu").mkdir()
    with pytest.raises(ValueError, match=r"gqa \(no such directory") as error:
        slots.check_presence(tasks_of(), "train", "ofa_pretrain")
    assert f"sbu ({data_dir / 'sbu'} holds no shards of split 'train'" in str(error.value)
    assert "{'gqa': 0, 'sbu': 0}" in str(error.value)


def test_official_files_are_recognized(data_dir):
    (data_dir / "vision_language_examples.tsv").write_text("a row\n")
    with pytest.raises(ValueError, match='mixture_or_task_name = "ofa_pretrain_tsv"'):
        slots.check_presence(tasks_of(), "train", "ofa_pretrain")
    with pytest.raises(ValueError, match=r"image_examples\.tsv does not exist") as error:
        slots.check_presence(tasks_of("ofa_pretrain_tsv"), "train", "ofa_pretrain_tsv")
    assert "{'ofa_detection': 0, 'ofa_image_infilling': 0, 'ofa_text_infilling': 0}" in str(
        error.value
    )


def test_without_a_data_dir_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv("OFA_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match=r"no directory .*DATA_DIR"):
        slots.check_presence(tasks_of(), "train", "ofa_pretrain")


def test_rates_of_data_sets_and_families():
    found = {task.name: rate for task, rate in lookup("ofa_pretrain")}

    def changed(**changes):
        return {t.name: rate for t, rate in slots.change_rates(lookup("ofa_pretrain"), changes)}

    without = changed(vg=0, refcoco=0)
    assert not [name for name in without if name.startswith(("vg_", "refcoco_"))]
    assert "refcocog_visual_grounding" in without
    assert without == {name: found[name] for name in without}
    more = changed(vqa=3.0, cc12m=0)
    questions = {name: rate for name, rate in more.items() if name.endswith("_vqa")}
    assert sum(questions.values()) == pytest.approx(3.0)
    assert questions["gqa_vqa"] / questions["vqav2_vqa"] == pytest.approx(0.94 / 0.44)
    both = changed(vqa=3.0, gqa_vqa=7.0)
    assert both["gqa_vqa"] == 7.0
    with pytest.raises(ValueError, match=r"task 'cc12'; .*cc12m"):
        changed(cc12=0)

"""What the fine-tuning tasks let the model read and say, against the official ids (SPEC 3.1, 8)."""

import io
import json
import pickle

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
import tasks.refcoco
import tasks.snli_ve
import tasks.vqa
import tasks.zero_shot  # noqa: F401
from ofa_jax import vocab
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks.features import pad_row
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.text.tokenizer import load_tokenizer
from ofa_jax.vocab import BOS_ID, EOS_ID, swap_official_ids
from tests.shared import bert_dir, fixtures_dir, gpt2_dir, requires_gpt2

pytestmark = requires_gpt2
LENGTHS = {"inputs": 64, "targets": 96, "image": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(gpt2_dir())


@pytest.fixture(scope="module")
def chinese():
    return load_tokenizer(bert_dir())


@pytest.fixture(autouse=True)
def directories(monkeypatch, tmp_path):
    monkeypatch.setenv("OFA_VOCAB_DIR", str(gpt2_dir()))
    monkeypatch.setenv("OFA_DATA_DIR", str(tmp_path))
    return tmp_path


def picture(width=40, height=30):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def features_of(name, record, *, train=True, seed=0):
    task = lookup(name)[0][0]
    rng = np.random.default_rng(seed)
    example = task.prepared({"image_id": "1", **record}, rng, LENGTHS, train=train)
    return task.features(example, rng, LENGTHS, train=train)


def source(tokenizer, text):
    return [BOS_ID, *tokenizer.encode_text(text), EOS_ID]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_captions_are_the_official_rows(split):
    case = json.loads((fixtures_dir() / "dataset_items.json").read_text())
    case = case[f"caption_{split}"]
    for number, caption in enumerate(case["captions"]):
        record = {"image": picture(), "captions": caption.split("&&")}
        found = features_of("caption_coco", record, train=split == "train")
        official = swap_official_ids(np.array(case["target"][number]))
        official = official[official != vocab.PAD_ID].tolist()
        assert found["targets"].tolist() == official
        assert (
            found["inputs"].tolist() == swap_official_ids(np.array(case["source"][number])).tolist()
        )


def test_questions_are_the_official_rows(directories):
    case = json.loads((fixtures_dir() / "dataset_items.json").read_text())
    case = case["vqa_prev_output"]
    answers = {answer: number for number, answer in enumerate(case["answers"])}
    (directories / "trainval_ans2label.pkl").write_bytes(pickle.dumps(answers, protocol=2))
    names = case["objects"].split("&&")[: case["max_object_length"]]
    for number, (question, references) in enumerate(case["questions"]):
        pairs = [item.split("|!+") for item in references.split("&&")]
        record = {
            "image": picture(),
            "question": question,
            "objects": names,
            "answers": [answer for _, answer in pairs],
            "answer_conf": [float(confidence) for confidence, _ in pairs],
        }
        row = pad_row(features_of("vqa", record), LENGTHS, 0)
        inputs = swap_official_ids(np.array(case["prev"][number]))
        length = int((inputs != vocab.PAD_ID).sum())
        assert row["decoder_input_tokens"][:length].tolist() == inputs[:length].tolist()
        assert not row["decoder_input_tokens"][length:].any()
        # Where the official target is padding nothing is counted.
        target = swap_official_ids(np.array(case["target"][number]))
        counted = target != vocab.PAD_ID
        weights = row["decoder_loss_weights"][: len(target)]
        np.testing.assert_array_equal(weights > 0, counted)
        np.testing.assert_array_equal(
            row["decoder_target_tokens"][: len(target)][counted], target[counted]
        )
        np.testing.assert_allclose(weights[counted], case["conf"][number])
        prompt = lookup("vqa")[0][0].answering.prompt(
            row["encoder_input_tokens"][row["encoder_input_tokens"] != vocab.PAD_ID]
        )
        official_prompt = swap_official_ids(np.array(case["decoder_prompts"][number]))
        assert [BOS_ID, *prompt.tolist()] == official_prompt.tolist()


def test_an_answer_outside_of_the_set_is_named(directories):
    (directories / "trainval_ans2label.pkl").write_bytes(pickle.dumps({"yes": 0}, protocol=2))
    record = {"image": picture(), "question": "q", "answers": ["maybe"], "answer_conf": [1.0]}
    with pytest.raises(InstructionError, match=r"'maybe' .*1 answers"):
        features_of("vqa", record)
    assert features_of("vqa", record, train=False)["targets"].size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "the list is empty"),
        ({"a" * 400: 0}, r"answer 'a+' has \d+ tokens, the target holds 30"),
        (["yes", "yes"], "answer 'yes' stands there twice"),
    ],
)
def test_bad_answer_lists(directories, content, message):
    (directories / "trainval_ans2label.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=message):
        lookup("vqa")[0][0].candidate_ids()


def test_a_pickle_that_runs_code_is_refused(directories):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (directories / "trainval_ans2label.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="list of answers: refuses"):
        lookup("vqa")[0][0].candidate_ids()


BOXED = {"boxes": [[10.0, 6.0, 30.0, 24.0]], "refexp_box_index": [0]}

# Task -> (record, what is read, what is said).
LINES = {
    "refcoco": (
        {"image": picture(), "refexps": ["a dog"], **BOXED},
        ' which region does the text " a dog " describe?',
        None,
    ),
    "zero_shot_refcocog": (
        {"image": picture(), "refexps": ["A Dog"], **BOXED},
        ' which region does the text " a dog " describe?',
        None,
    ),
    "snli_ve": (
        {
            "image": picture(),
            "captions": ["Two men."],
            "hypothesis": "They run",
            "label": "neutral",
        },
        ' can image and text1 " two men. " imply text2 " they run "?',
        " maybe",
    ),
    "zero_shot_snli_ve": (
        {"image": picture(), "hypothesis": "They run", "label": "contradiction"},
        ' does the image describe " they run "?',
        " no",
    ),
    "zero_shot_vqa": (
        {"image": picture(), "question": "What color?", "answers": ["red"], "answer_conf": [1.0]},
        " what color?",
        " red",
    ),
    "text_to_image": (
        {"captions": ["a dog on grass"], "image_codes": np.arange(4, dtype=np.int32)},
        " what is the complete image? caption: a dog on grass",
        None,
    ),
    "gigaword": (
        {"text": "the <unk> rose #", "summary": "Stocks rise"},
        ' what is the summary of article " the unk rose # "?',
        "stocks rise",
    ),
    "glue_cola": (
        {"sentence1": "He Ran", "label": "acceptable"},
        ' is the text " he ran " grammatically correct?',
        " yes",
    ),
    "glue_mnli": (
        {"sentence1": "A", "sentence2": "B", "label": "neutral"},
        ' can text1 " a " imply text2 " b "?',
        " maybe",
    ),
    "glue_mrpc": (
        {"sentence1": "A", "sentence2": "B", "label": "not_equivalent"},
        ' does text1 " a " and text2 " b " have the same semantics?',
        " no",
    ),
    "glue_qnli": (
        {"sentence1": "Who?", "sentence2": "Him.", "label": "entailment"},
        ' does " him. " contain the answer to question " who? "?',
        " yes",
    ),
    "glue_qqp": (
        {"sentence1": "A", "sentence2": "B", "label": "duplicate"},
        ' is question " a " and question " b " equivalent?',
        " yes",
    ),
    "glue_rte": (
        {"sentence1": "a", "sentence2": "b", "label": "not_entailment"},
        ' can text1 " a " imply text2 " b "?',
        " no",
    ),
    "glue_sst2": (
        {"sentence1": "Fine", "label": "negative"},
        ' is the sentiment of text " fine " positive or negative?',
        " negative",
    ),
    "ocr_en": (
        {"image": picture(), "captions": ["EXIT"]},
        " what are the texts on the image?",
        " exit",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_tasks(name, tokenizer):
    record, asked, said = LINES[name]
    found = features_of(name, record)
    assert found["inputs"].tolist() == source(tokenizer, asked)
    task = lookup(name)[0][0]
    prompt = task.answering.prompt(found["inputs"]).tolist()
    assert found["targets"][: len(prompt)].tolist() == prompt
    answer = found["targets"][len(prompt) :].tolist()
    if said is not None:
        ending = [EOS_ID] if task.answering.ends_with_eos else []
        assert answer == [*tokenizer.encode_text(said), *ending]
    assert (found["loss_weights"] > 0).tolist() == [False] * len(prompt) + [True] * len(answer)
    expected = {"glue": 1, "snli": 3, "zero": None}.get(name[:4])
    if task.answering.decoder_prompt == "source":
        assert prompt == found["inputs"][1:-1].tolist()
    if name.startswith("glue"):
        assert prompt == found["inputs"][1:].tolist(), "the decoder reads the eos too"
        assert len(answer) == expected


def test_boxes_are_pixels_of_the_square(tokenizer):
    found = features_of("refcoco", LINES["refcoco"][0])
    # 40 x 30 pixels become 64 x 64.
    box = np.array([10 / 40, 6 / 30, 30 / 40, 24 / 30]) * 64
    assert found["targets"].tolist() == [*tokenizer.encode_box(box), EOS_ID]
    assert found["image"].shape == (64, 64, 3)


def test_codes_have_no_image(tokenizer):
    found = features_of("text_to_image", LINES["text_to_image"][0])
    start = tokenizer.layout.code_start
    assert found["targets"].tolist() == [start, start + 1, start + 2, start + 3, EOS_ID]
    assert found["code_mask"].all()
    assert not found["image_mask"].any()


def test_gigaword_noise_changes_inputs_only(tokenizer):
    record = {"text": "an article", "summary": " ".join(["stocks"] * 40)}
    noised = features_of("gigaword", record, seed=1)
    clean = features_of("gigaword", record, train=False)
    np.testing.assert_array_equal(noised["targets"], clean["targets"])
    row = pad_row(noised, LENGTHS, 0)
    length = len(noised["targets"])
    expected = np.concatenate([[BOS_ID], noised["targets"][:-1]])
    changed = row["decoder_input_tokens"][:length] != expected
    assert not changed[0]
    assert 0.03 < changed.mean() < 0.5
    replaced = row["decoder_input_tokens"][:length][changed]
    assert (replaced >= vocab.NUM_SPECIALS).all()
    assert (replaced < tokenizer.layout.code_start).all()
    np.testing.assert_array_equal(clean["decoder_inputs"], expected)


@pytest.mark.parametrize(
    ("name", "record", "asked", "said"),
    [
        ("caption_muge", {"captions": ["红色方块"]}, "图片描述了什么内容?", "红色方块"),
        (
            "refcoco_cn",
            {"refexps": ["红色方块"], **BOXED},
            '这段文字" 红色方块 "描述的是哪个区域？',
            None,
        ),
        ("ocr_cn", {"captions": ["ｏｐｅｎ 门"]}, "图片上的文字是什么?", "open 门"),
    ],
)
def test_chinese_lines(name, record, asked, said, chinese, monkeypatch):
    monkeypatch.setenv("OFA_VOCAB_DIR", str(bert_dir()))
    found = features_of(name, {"image": picture(), **record})
    assert found["inputs"].tolist() == source(chinese, asked)
    if said is not None:
        assert found["targets"].tolist() == [*chinese.encode_text(said), EOS_ID]
    assert found["image"].shape == (64, 64, 3)


def test_long_prompts_lose_their_end_on_both_sides(tokenizer):
    record = {"sentence1": "word " * 300, "sentence2": "b", "label": "entailment"}
    found = features_of("glue_rte", record)
    assert len(found["inputs"]) == LENGTHS["inputs"]
    assert found["inputs"][-1] == EOS_ID
    assert found["targets"][:-1].tolist() == found["inputs"][1:].tolist()
    assert len(found["targets"]) <= LENGTHS["targets"]
    assert found["targets"][-1] == tokenizer.encode_text(" yes")[0]


def test_unlabeled_rows_can_be_evaluated():
    for name, record in {
        "caption_coco": {"image": picture()},
        "snli_ve": {"image": picture(), "captions": ["a"], "hypothesis": "b"},
        "glue_qqp": {"sentence1": "a", "sentence2": "b"},
        "text_to_image": {"captions": ["a dog"]},
    }.items():
        assert features_of(name, record, train=False)["inputs"].size


def test_an_unknown_class_is_named():
    record = {"sentence1": "a", "sentence2": "b", "label": "perhaps"}
    with pytest.raises(InstructionError, match=r"label 'perhaps'; .*not_entailment"):
        features_of("glue_rte", record)

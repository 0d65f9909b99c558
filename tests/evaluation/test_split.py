"""Prediction, scoring and files of one split, with predictors that know everything or nothing."""

import json

import numpy as np
import pytest
from PIL import Image

import mixtures.scenes  # noqa: F401  (registers the tasks)
from mixtures.rates import FAMILIES
from ofa_jax import vocab
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import image_tokenizer_of
from ofa_jax.evaluation.streaming import MemoryLines, predict_split, score_split, write_split
from ofa_jax.inference.answerer import Answers
from ofa_jax.report.examples import Family, task_family

LENGTHS = {"inputs": 28, "targets": 20, "image": 32}
SCENES = (*FAMILIES, "grounded_vqa")


def scenes_task(family):
    return lookup(f"scenes_{family}")[0][0]


def answers(tokens):
    """One answer per row, of probability 1."""
    scores = np.zeros((len(tokens), 1), np.float32)
    return Answers(np.asarray(tokens)[:, None], scores, scores)


def oracle(task, rows, number):
    """Generates exactly the target."""
    del task, number
    return answers(rows["decoder_target_tokens"])


def silent(task, rows, number):
    """Ends every answer at once."""
    return answers(np.full((len(rows["task_ids"]), 8), vocab.EOS_ID, np.int32))


def predict(family, answer, *, split="validation", count=12, batch_size=8, **options):
    lines = MemoryLines()
    predict_split(
        scenes_task(family),
        answer,
        LENGTHS,
        split=split,
        lines=lines,
        limit=count,
        batch_size=batch_size,
        **options,
    )
    return lines


def score(family, lines):
    return score_split(scenes_task(family), [lines]).result


def examples(lines):
    return [line["example"] for line in lines]


def write(family, lines, directory, **options):
    task = scenes_task(family)
    write_split(
        task,
        [lines],
        score_split(task, [lines]),
        directory,
        name=family,
        lengths=LENGTHS,
        split="validation",
        image_tokenizer=image_tokenizer_of(task),
        **options,
    )
    return read(directory / "predictions" / f"{family}.jsonl")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("split", ["validation", "compositions", "unseen_style"])
@pytest.mark.parametrize("family", SCENES)
def test_the_truth_scores_one(family, split):
    """From source to score nothing is lost: lengths, ids, decoding and scorers agree."""
    lines = predict(family, oracle, split=split, count=96, batch_size=32)
    result = score(family, lines)
    assert result.metrics[result.primary] == 1.0
    assert len(result.scores) == 96
    if family == "text_infilling":
        source = scenes_task(family).source.open(split)
        texts = [example["text"] for example in examples(lines)]
        assert texts == [source[index]["text"] for index in range(96)], "no text is cut"
    assert result.baseline < 1.0
    if family == "visual_grounding":
        # Half a bin (2.1 pixels) off at each side, of boxes of 10 to 14 pixels.
        assert min(result.scores) > 0.7
    else:
        assert set(result.scores) == {1.0}


@pytest.mark.parametrize("family", SCENES)
def test_silence_scores_zero(family):
    result = score(family, predict(family, silent))
    assert result.metrics[result.primary] == 0.0
    assert set(result.scores) == {0.0}
    entry = result.entry()
    assert entry["n"] == 12
    assert entry["primary"] in entry
    json.dumps(entry, allow_nan=False)


def test_the_last_batch_is_filled_up_and_cut():
    sizes = []

    def generate(task, rows, number):
        sizes.append(len(rows["task_ids"]))
        return oracle(task, rows, number)

    lines = predict("vqa", generate, count=13, batch_size=8)
    assert sizes == [8, 8]
    assert [line["index"] for line in lines] == list(range(13))
    assert score("vqa", lines).metrics["accuracy"] == 1.0


def test_predictions_are_a_function_of_the_seed():
    def questions(seed):
        return [example["question"] for example in examples(predict("vqa", silent, seed=seed))]

    assert questions(0) == questions(0)
    assert questions(0) != questions(1)


def test_a_split_without_examples_is_named():
    with pytest.raises(ValueError, match=r"'scenes_vqa' .*no examples .*'validation'"):
        predict("vqa", oracle, count=0)
    with pytest.raises(ValueError, match="unknown split 'evening'"):
        predict("vqa", oracle, split="evening")


REQUIRED = {
    "example_id": str,
    "input_text": str,
    "prediction_text": str,
    "target_text": str,
    "score": float,
}


@pytest.mark.parametrize("family", SCENES)
def test_written_rows_have_the_agreed_fields(family, tmp_path):
    lines = predict(family, oracle, count=6)
    result = score(family, lines)
    rows = write(family, lines, tmp_path)
    assert len(rows) == 6
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == [f"{family}.jsonl"]
    records = scenes_task(family).source.open("validation")
    for number, row in enumerate(rows):
        for key, kind in REQUIRED.items():
            assert isinstance(row[key], kind), key
        assert row["example_id"] == f"scenes-tiny-validation-0-{number}"
        assert row["prediction_text"] == row["target_text"] != ""
        assert row["score"] == pytest.approx(result.scores[number])
        assert row["verdict"] == result.verdicts[number]
        assert row["log_probability"] == 0.0
        assert (row["image"] is not None) == (family != "text_infilling")
        if row["image"]:
            assert row["image"] == f"examples/{family}/{number}.png"
            assert row["image_size"] == [32, 32]
            pixels = np.asarray(Image.open(tmp_path / row["image"]))
            np.testing.assert_array_equal(pixels, records[number]["image"])
    kinds = {
        "visual_grounding": Family.GROUNDING,
        "grounded_captioning": Family.REGION,
        "grounded_vqa": Family.REGION,
        "detection": Family.DETECTION,
        "image_infilling": Family.IMAGE_INFILLING,
        "text_infilling": Family.TEXT_INFILLING,
        "captioning": Family.CAPTIONING,
        "vqa": Family.ANSWER,
        "image_text_matching": Family.ANSWER,
    }
    assert task_family(family, rows) is kinds[family], "the report recognizes the rows"


def test_fields_of_boxes_and_objects(tmp_path):
    lines = predict("visual_grounding", oracle, count=2)
    row = write("visual_grounding", lines, tmp_path)[0]
    np.testing.assert_allclose(row["true_box"], examples(lines)[0]["region"], atol=1e-3)
    np.testing.assert_allclose(row["predicted_box"], row["true_box"], atol=32 / 15 / 2 + 1e-3)
    assert row["input_text"].startswith('which region does the text " ')

    row = write("visual_grounding", predict("visual_grounding", silent, count=2), tmp_path)[0]
    assert row["predicted_box"] is None
    assert row["prediction_text"] == ""
    assert row["target_text"].startswith("<bin_")

    lines = predict("grounded_vqa", oracle, count=2)
    row = write("grounded_vqa", lines, tmp_path)[0]
    np.testing.assert_allclose(row["true_box"], examples(lines)[0]["region"], atol=1e-3)
    assert "predicted_box" not in row

    lines = predict("detection", oracle, count=2)
    row, example = write("detection", lines, tmp_path)[0], examples(lines)[0]
    assert [item["label"] for item in row["true_objects"]] == example["labels"]
    assert [item["label"] for item in row["predicted_objects"]] == example["labels"]
    np.testing.assert_allclose([o["box"] for o in row["true_objects"]], example["boxes"])

    lines = predict("captioning", oracle, count=2)
    row = write("captioning", lines, tmp_path)[0]
    assert row["references"] == examples(lines)[0]["captions"]


def test_images_of_infilling(tmp_path):
    tokenizer = image_tokenizer_of(scenes_task("image_infilling"))
    assert image_tokenizer_of(scenes_task("vqa")) is None

    def half_right(task, rows, number):
        targets = rows["decoder_target_tokens"].copy()
        targets[:, 8:] = vocab.EOS_ID
        return answers(targets)

    lines = predict("image_infilling", half_right, count=1)
    assert score("image_infilling", lines).scores == [0.5]
    [row] = write("image_infilling", lines, tmp_path)
    image, masked, infilled, target = (
        np.asarray(Image.open(tmp_path / row[key])).astype(int)
        for key in ("image", "masked_image", "infilled_image", "target_image")
    )
    border = np.ones((32, 32), bool)
    border[8:24, 8:24] = False
    for other in (masked, infilled, target):
        np.testing.assert_array_equal(other[border], image[border])
    assert set(masked[8:24, 8:24].ravel()) == {127}
    codes = np.asarray(examples(lines)[0]["image_codes"]).reshape(4, 4)
    np.testing.assert_array_equal(target[8:24, 8:24], tokenizer.decode(codes))
    # The first two rows of codes were right, the others are missing.
    np.testing.assert_array_equal(infilled[8:16], target[8:16])


def test_the_best_answers_are_told(tmp_path):
    def two(task, rows, number):
        right = rows["decoder_target_tokens"]
        wrong = np.full_like(right, vocab.EOS_ID)
        scores = np.tile(np.float32([-0.25, -1.5]), (len(right), 1))
        return Answers(np.stack([right, wrong], axis=1), scores, 2 * scores)

    row = write("vqa", predict("vqa", two, count=2), tmp_path)[0]
    assert row["log_probability"] == -0.5
    assert row["decoding_score"] == -0.25
    assert row["alternatives"] == [{"text": "", "log_probability": -3.0}]

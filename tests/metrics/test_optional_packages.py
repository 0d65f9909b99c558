"""Scores of other packages, against values that those packages give, or skipped without them."""

import importlib.util
import shutil

import numpy as np
import pytest

from ofa_jax.metrics import average_precision, caption, caption_server, dependency, text


def needs(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"needs {package} (extra 'eval')"
    )


needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

HYPOTHESES = ["a man riding a wave", "two dogs playing in the grass", "dog"]
REFERENCES = [
    ["a man riding a wave on a surfboard", "a surfer rides a big wave"],
    ["two dogs play in the grass", "a pair of dogs running on green grass"],
    ["a plate of food on a table", "food on a plate"],
]


def test_a_missing_package_is_one_sentence():
    with pytest.raises(dependency.MissingDependencyError) as caught:
        dependency.require_package("no_such_package.part", score="TEST")
    assert str(caught.value) == (
        "TEST needs the package no_such_package, which is not installed; "
        "pip install 'ofa-jax[eval]'"
    )
    assert isinstance(caught.value, ValueError), "entry points print it as one line"


def test_missing_java(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(dependency.MissingDependencyError, match="METEOR runs a Java program"):
        dependency.require_java(score="METEOR")


@needs("rouge_score")
def test_rouge_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    predicted = ["stocks rising on hope", "police kill the gunman"]
    references = ["stocks rise on hopes", "police killed the gunman"]
    found = text.rouge(predicted, references)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for number, (guess, target) in enumerate(zip(predicted, references)):
        for kind, value in scorer.score(target, guess).items():
            assert found[kind][number] == pytest.approx(value.fmeasure)
    assert found["rouge1"][0] == 1.0, "stemming makes the words equal"


@needs("pycocotools")
def test_average_precision_of_simple_cases():
    true = [
        [{"box": [0, 0, 10, 10], "label": "cat"}, {"box": [20, 20, 40, 40], "label": "dog"}],
        [{"box": [5, 5, 25, 25], "label": "cat"}],
    ]
    perfect = average_precision.mean_average_precision(true, true)
    assert perfect["ap"] == pytest.approx(1.0)
    assert average_precision.mean_average_precision([[], []], true)["ap"] == 0.0
    # One of two cats is found; precision is 1 up to a recall of one half: 51 of 101 points.
    half = average_precision.mean_average_precision([true[0], []], true)
    assert half["ap_50"] == pytest.approx((51 / 101 + 1.0) / 2)
    unknown = [[*true[0], {"box": [0, 0, 5, 5], "label": "bird"}], true[1]]
    assert average_precision.mean_average_precision(unknown, true)["ap"] == pytest.approx(1.0)
    # A surer wrong box in front of the right one costs precision.
    wrong = {"box": [60, 60, 70, 70], "label": "dog", "score": 0.9}
    right = {**true[0][1], "score": 0.5}
    mixed = [[true[0][0], wrong, right], true[1]]
    assert average_precision.mean_average_precision(mixed, true)["ap_50"] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no true objects"):
        average_precision.mean_average_precision([[]], [[]])


@needs("pycocotools")
def test_average_precision_is_that_of_cocoeval():
    """Random boxes, the annotations written by hand."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)

    def boxes(count):
        corner = rng.uniform(0, 60, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], axis=1)

    true = [[{"box": b, "label": "ab"[i % 2]} for i, b in enumerate(boxes(4))] for _ in range(6)]
    predicted = [
        [
            {**item, "box": item["box"] + rng.normal(0, 2, 4), "score": float(rng.random())}
            for item in group
        ]
        + [{"box": boxes(1)[0], "label": "a", "score": float(rng.random())}]
        for group in true
    ]
    coco = COCO()
    annotations = [
        {
            "id": number + 1,
            "image_id": picture,
            "category_id": 1 + "ab".index(item["label"]),
            "bbox": [*item["box"][:2], *(item["box"][2:] - item["box"][:2])],
            "area": float(np.prod(item["box"][2:] - item["box"][:2])),
            "iscrowd": 0,
        }
        for number, (picture, item) in enumerate(
            (picture, item) for picture, group in enumerate(true) for item in group
        )
    ]
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(6)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    coco.createIndex()
    results = [
        {
            "image_id": picture,
            "category_id": 1 + "ab".index(item["label"]),
            "bbox": [*item["box"][:2], *(item["box"][2:] - item["box"][:2])],
            "score": item["score"],
        }
        for picture, group in enumerate(predicted)
        for item in group
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found = average_precision.mean_average_precision(predicted, true)
    assert 0.1 < found["ap"] < 0.99
    assert found["ap"] == pytest.approx(evaluation.stats[0])
    assert found["ap_50"] == pytest.approx(evaluation.stats[1])


@needs("pycocoevalcap")
def test_caption_scores_are_those_of_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = dict(enumerate(REFERENCES))
    guesses = {number: [text] for number, text in enumerate(HYPOTHESES)}
    assert caption.bleu(HYPOTHESES, REFERENCES) == pytest.approx(
        Bleu(4).compute_score(truth, guesses, verbose=0)[0]
    )
    assert caption.rouge_l(HYPOTHESES, REFERENCES) == pytest.approx(
        Rouge().compute_score(truth, guesses)[0]
    )
    np.testing.assert_allclose(
        caption.cider_d(HYPOTHESES, REFERENCES), Cider().compute_score(truth, guesses)[1]
    )


@needs("pycocoevalcap")
@needs_java
def test_punctuation_is_tokenized_away():
    texts = [["A man, riding a wave!", "Two dogs."], ["", "It's food"]]
    found = caption_server.ptb_tokenize(texts)
    assert found[0] == ["a man riding a wave", "two dogs"]
    assert found[1] == ["", "it 's food"]


@pytest.mark.slow
@needs("pycocoevalcap")
@needs_java
def test_meteor_prefers_the_better_caption():
    better = caption_server.meteor(HYPOTHESES[:2], REFERENCES[:2])
    worse = caption_server.meteor(["a plate of food"] * 2, REFERENCES[:2])
    assert 0 < worse < better < 1
    scores = caption_server.server_scores(HYPOTHESES, REFERENCES)
    assert scores["meteor"] > 0
    assert scores["cider"] == pytest.approx(float(caption.cider_d(HYPOTHESES, REFERENCES).mean()))

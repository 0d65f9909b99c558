"""Caption scores against the official CIDEr-D and against values of pycocoevalcap 1.2."""

import collections
import json
import pickle

import numpy as np
import pytest

from ofa_jax.metrics import caption
from tests.shared import fixtures_dir

HYPOTHESES = ["a man riding a wave", "two dogs playing in the grass", "dog", "the the the the"]
REFERENCES = [
    ["a man riding a wave on a surfboard", "a surfer rides a big wave", "man surfing on the sea"],
    ["two dogs play in the grass", "a pair of dogs running on green grass"],
    ["a plate of food on a table"],
    ["the cat sat on the mat", "there is a cat"],
]
# Computed once by pycocoevalcap 1.2 (Bleu(4), Rouge, Cider) on the captions above.
COCO_BLEU = [0.5154669590287959, 0.4545991275489027, 0.39817264091138, 0.34678327229393274]
COCO_ROUGE_L = 0.48947701801166726
COCO_CIDER_D = [2.72340138567645, 2.5242407671302503, 0.0, 0.13777034991170073]


@pytest.fixture(scope="module")
def official():
    path = fixtures_dir() / "cider_cases.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _aligned(case):
    keys = sorted(case["gts"])
    return [case["res"][k] for k in keys], [case["gts"][k] for k in keys]


def test_cider_d_equals_official_with_corpus_frequencies(official):
    scores = caption.cider_d(*_aligned(official))
    np.testing.assert_allclose(scores, official["corpus"]["scores"], rtol=1e-12, atol=1e-12)
    assert scores.mean() == pytest.approx(official["corpus"]["mean"], rel=1e-12)


def test_cider_d_equals_official_with_given_frequencies(official, tmp_path):
    case = official["df_file"]
    counts = {tuple(ngram): count for ngram, count in case["document_frequency"]}
    frequency = caption.DocumentFrequency(counts, case["ref_len"])
    frequency.save(tmp_path / "df.json")
    with (tmp_path / "words.p").open("wb") as file:
        pickle.dump({"ref_len": case["ref_len"], "document_frequency": counts}, file, protocol=2)
    for table in (
        frequency,
        caption.DocumentFrequency.load(tmp_path / "df.json"),
        caption.DocumentFrequency.load(tmp_path / "words.p"),
    ):
        scores = caption.cider_d(*_aligned(official), table)
        np.testing.assert_allclose(scores, case["scores"], rtol=1e-12, atol=1e-12)


def test_frequency_pickle_runs_no_foreign_code(tmp_path):
    with (tmp_path / "words.p").open("wb") as file:
        pickle.dump({"ref_len": pytest.raises, "document_frequency": {}}, file)
    with pytest.raises(ValueError, match="refuses to load"):
        caption.DocumentFrequency.load(tmp_path / "words.p")


def test_frequencies_as_the_official_script_pickles_them(tmp_path):
    """A defaultdict and a numpy number (SPEC 5.5); a memo of 2^30 entries is refused."""
    counts = collections.defaultdict(float, {("a",): 2.0, ("a", "cat"): 1.0})
    path = tmp_path / "words.p"
    path.write_bytes(pickle.dumps({"ref_len": np.float64(3), "document_frequency": counts}, 2))
    table = caption.DocumentFrequency.load(path)
    assert (table.counts, table.num_documents) == (dict(counts), 3.0)
    path.write_bytes(b"\x80\x02Nr" + (1 << 30).to_bytes(4, "little") + b".")
    with pytest.raises(ValueError, match=r"words\.p .*memo index"):
        caption.DocumentFrequency.load(path)


def test_frequency_counts_documents_not_occurrences():
    table = caption.DocumentFrequency.from_references([["a cat a cat", "a dog"], ["a bird"]])
    assert table.counts[("a",)] == 2
    assert table.counts[("a", "cat")] == 1
    assert table.num_documents == 2


def test_bleu_and_rouge_equal_coco_server():
    np.testing.assert_allclose(caption.bleu(HYPOTHESES, REFERENCES), COCO_BLEU, rtol=1e-9)
    assert caption.rouge_l(HYPOTHESES, REFERENCES) == pytest.approx(COCO_ROUGE_L, rel=1e-9)
    np.testing.assert_allclose(
        caption.cider_d(HYPOTHESES, REFERENCES), COCO_CIDER_D, rtol=1e-9, atol=1e-12
    )


def test_perfect_captions_score_highest():
    firsts = [captions[0] for captions in REFERENCES[:3]]
    assert caption.bleu(firsts, REFERENCES[:3])[3] == pytest.approx(1.0, abs=1e-6)
    assert caption.rouge_l(firsts, REFERENCES[:3]) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [caption.cider_d, caption.bleu, caption.rouge_l])
def test_mismatches_are_named(metric):
    with pytest.raises(ValueError, match="got 2 and 1"):
        metric(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="empty"):
        metric([], [])
    with pytest.raises(ValueError, match=r"references\[0\] .*list"):
        metric(["a"], ["a"])

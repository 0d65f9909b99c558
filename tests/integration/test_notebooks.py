"""The notebooks of docs/notebooks run from top to bottom, each cell as Jupyter would run it."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

from tests.integration.tiny_run import TINY

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(path: pathlib.Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict) -> object:
    """Runs a cell; returns the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_load_ask_fine_tune_look(tmp_path, monkeypatch, capsys):
    """From weights of two steps; what is learned is not the point, that every cell works is."""
    monkeypatch.chdir(ROOT)
    start = tmp_path / "start"
    settings = [one for one in TINY if "micro.gin" not in one and "models.OFA" not in one]
    command = [sys.executable, "-m", "ofa_jax.train", *settings, "--gin.TRAIN_STEPS=2"]
    subprocess.run([*command, f"--gin.MODEL_DIR='{start}'"], check=True, capture_output=True)
    monkeypatch.setenv("CHECKPOINT", str(start))
    monkeypatch.setenv("WORK", str(tmp_path / "work"))
    monkeypatch.setenv("STEPS", "4")
    names: dict = {}
    shown = [run_cell(cell, names) for cell in code_cells(NOTEBOOKS[0])]
    assert shown[1].size == (256, 256)
    assert shown[-1].size == (96, 80)
    assert len(names["after"]) == 20
    assert (tmp_path / "work" / "own_vqa" / "report.html").is_file()
    assert "of 20 after:" in capsys.readouterr().out

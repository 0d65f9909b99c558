"""The site of docs/: every page has its place, the reference lists what modules export."""

import ast
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
MODULES = sorted(
    name
    for page in (DOCS / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
)


def source_of(module: str) -> pathlib.Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md\b", (ROOT / "mkdocs.yml").read_text()))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert pages == listed


def test_nothing_is_listed_twice():
    assert len(MODULES) == len(set(MODULES)) > 40


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_is_what_a_module_exports(module):
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    defined = {node.name: node for node in tree.body if hasattr(node, "name")}
    [exported] = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    public = {name for name in defined if not name.startswith("_")}
    assert public <= set(exported)
    assert len(exported) == len(set(exported))
    for name in exported:
        assert name not in defined or ast.get_docstring(defined[name]), name


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra 'docs'")
def test_the_site_is_built_without_a_warning_and_is_searched_offline(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Beside the index as JSON there is a script of it, which a page from the disk may load.
    assert (tmp_path / "search" / "search_index.js").is_file()
    index = json.loads((tmp_path / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"tutorial.html", "spec/pretraining.html", "api/decoding.html"} <= found
    assert 'id="spec-4.5"' in (tmp_path / "spec" / "pretraining.html").read_text()
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 40
    assert not any(re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', p) for p in pages)

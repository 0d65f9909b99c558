"""The documentation names only what exists: links, modules, make targets, gin files, settings."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
MODULE = re.compile(r"python -m (ofa_jax(?:\.\w+)+)")
PYTHON_FILE = re.compile(r"\b(?:ofa_jax|tasks|mixtures|tests)/[\w/]+\.py\b")
IMPORT = re.compile(r"^\s*from ((?:ofa_jax|tasks|mixtures)[\w.]*) import ([\w, ]+)$", re.MULTILINE)
TARGET = re.compile(r"(?:`|^|\n)make ([a-z][a-z0-9-]*)\b")
GIN_FILE = re.compile(r"(?<![\w/])gin_configs/[\w/]+\.gin")
OVERRIDE = re.compile(r"--gin\.([A-Za-z_.]+)=")
FENCE = re.compile(r"```.*?```", re.DOTALL)
# Files that a page tells the reader to write.
WRITTEN_BY_READERS = {"gin_configs/runs/slower.gin", "tasks/background.py"}
# Images that come from a real run and are not there yet.
PENDING_IMAGES: set[str] = set()
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|tmp|home|root)/")


def text_of(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def module_file(name: str) -> pathlib.Path | None:
    path = ROOT.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((c for c in candidates if c.is_file()), None)


def anchors(page: pathlib.Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them, and those that it writes itself."""
    named = set(re.findall(r'<a id="([^"]+)">', text_of(page)))
    headings = HEADING.findall(FENCE.sub("", text_of(page)))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return named | {heading.strip().replace(" ", "-") for heading in plain}


def top_level_names(path: pathlib.Path) -> set[str]:
    """Names that a module defines or imports; those of a lazy facade stand in its strings."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def pages_with(pattern: re.Pattern) -> list:
    return [pytest.param(p, id=p.name) for p in PAGES if pattern.search(text_of(p))]


def test_there_are_pages():
    names = {page.name for page in PAGES}
    assert {"README.md", "WORKSPACE.md", "CHANGELOG.md", "tutorial.md", "differences.md"} <= names


@pytest.mark.parametrize("page", pages_with(LINK))
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if target.relative_to(ROOT).as_posix() in PENDING_IMAGES:
            continue
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {target.name} has no #{anchor}"


@pytest.mark.parametrize("page", pages_with(MODULE))
def test_commands_name_entry_points(page):
    for name in MODULE.findall(text_of(page)):
        path = module_file(name)
        assert path is not None, f"{page.name}: there is no {name}"
        runnable = path.with_name("__main__.py") if path.name == "__init__.py" else path
        assert runnable.is_file(), f"{page.name}: {name} cannot be run"
        assert "__main__" in runnable.read_text(encoding="utf-8"), f"{name} is no entry point"


@pytest.mark.parametrize("page", pages_with(PYTHON_FILE))
def test_python_files_exist(page):
    for name in set(PYTHON_FILE.findall(text_of(page))) - WRITTEN_BY_READERS:
        assert (ROOT / name).is_file(), f"{page.name}: there is no {name}"


@pytest.mark.parametrize("page", pages_with(IMPORT))
def test_imports_of_examples_exist(page):
    for module, imported in IMPORT.findall(text_of(page)):
        path = module_file(module)
        assert path is not None, f"{page.name}: there is no module {module}"
        names = top_level_names(path)
        for name in re.findall(r"\w+", imported):
            found = name in names or module_file(f"{module}.{name}") is not None
            assert found, f"{page.name}: {module} has no {name}"


@pytest.mark.parametrize("page", pages_with(TARGET))
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    for name in TARGET.findall(text_of(page)):
        assert name in targets, f"{page.name}: the Makefile has no target {name}"


@pytest.mark.parametrize("page", pages_with(GIN_FILE))
def test_gin_files_exist(page):
    for name in set(GIN_FILE.findall(text_of(page))) - WRITTEN_BY_READERS:
        assert (ROOT / name).is_file(), f"{page.name}: there is no {name}"


@pytest.mark.parametrize("page", pages_with(OVERRIDE))
def test_overrides_name_macros_or_settings(page):
    """Macros are defined in a gin file; bindings name a registered setting and its field."""
    import inspect

    from ofa_jax.cli.bindings import registered
    from ofa_jax.evaluation.evaluate import evaluate
    from ofa_jax.inference.infer import infer
    from ofa_jax.runs.story import train

    functions = registered(train)
    functions |= {"eval_script.evaluate": evaluate, "infer_script.infer": infer}
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "gin_configs").rglob("*.gin")]
    macros = {m for text in configs for m in re.findall(r"^([A-Z][A-Z_]+) =", text, re.MULTILINE)}
    settings = {name: set(inspect.signature(f).parameters) for name, f in functions.items()}
    for name in set(OVERRIDE.findall(text_of(page))) - {"NAME"}:
        if "." not in name:
            assert name in macros, f"{page.name}: no gin file defines {name}"
            continue
        owner, _, field = name.rpartition(".")
        assert field in settings.get(owner, ()), f"{page.name}: there is no setting {name}"


def test_the_configuration_page_names_what_gin_reaches():
    import inspect

    from ofa_jax.cli.bindings import registered
    from ofa_jax.runs.story import train

    lines = text_of(ROOT / "docs" / "configuration.md").splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `") and ".py)" in line}
    known = registered(train)
    assert rows.keys() == known.keys()
    # Of the long ones the row names what most runs set; INITIAL_CHECKPOINT_PATH is a macro.
    for name in (
        "checkpoints.CheckpointConfig", "log.LogConfig", "evaluation.LossEvaluationConfig",
    ):  # fmt: skip
        fields = set(inspect.signature(known[name]).parameters) - {"initial_path"}
        assert all(f"`{field}`" in rows[name] for field in fields), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_no_machine(page):
    found = MACHINE_PATHS.findall(text_of(page))
    assert not found, f"{page.name} holds a path of one machine"
    assert "\t" not in text_of(page), f"{page.name} holds tabs"

"""Every `SPEC n` of a comment is an anchor of docs/spec, and every anchor a section of its page."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "spec").glob("*.md"))
DIRECTORIES = (
    "ofa_jax",
    "tasks",
    "mixtures",
    "gin_configs",
    "launch",
    "benchmarks",
    "tests",
    "docs",
)
_NUMBER = r"\d+(?:\.\d+)*[a-d]?\b"
# `SPEC 4.3, 4.4`, `SPEC 2.2 and 2.3`; a comment may be wrapped before any number.
_REFERENCE = re.compile(
    rf"\b(VQGAN_)?SPEC\s+(?:#\s*)?({_NUMBER}(?:(?:,|\s+and)\s+(?:#\s*)?{_NUMBER})*)"
)


def references(text: str) -> list[str]:
    """Anchors that a text points to, such as `spec-4.5` and `vqgan-6`."""
    found = []
    for kind, numbers in _REFERENCE.findall(text):
        name = "vqgan" if kind else "spec"
        found += [f"{name}-{number}" for number in re.findall(_NUMBER, numbers)]
    return found


def anchors() -> list[str]:
    return [name for page in PAGES for name in re.findall(r'<a id="([^"]+)">', page.read_text())]


def test_references_are_read_as_they_are_written():
    text = "see SPEC 1.4, 1.5 and VQGAN_SPEC 4 and 5; (SPEC 4.4a). SPEC\n    # 5.5.2"
    expected = ["spec-1.4", "spec-1.5", "vqgan-4", "vqgan-5", "spec-4.4a", "spec-5.5.2"]
    assert references(text) == expected


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_reference_has_an_anchor(directory):
    known, missing, seen = set(anchors()), [], 0
    for path in sorted((ROOT / directory).rglob("*")):
        if path.suffix in (".py", ".md", ".gin", ".json") and path != pathlib.Path(__file__):
            if path.is_relative_to(ROOT / "tests" / "parity" / "data"):
                continue
            for name in references(path.read_text(encoding="utf-8")):
                seen += 1
                if name not in known:
                    missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []
    assert seen > {"ofa_jax": 200, "tests": 30}.get(directory, -1)


def test_anchors_are_unique_and_stand_in_their_headings():
    names = anchors()
    assert len(names) == len(set(names)) > 80
    for page in PAGES:
        for line in page.read_text().splitlines():
            for kind, number in re.findall(r'<a id="(spec|vqgan)-([^"]+)">', line):
                heading = f"{'VQGAN ' if kind == 'vqgan' else ''}{number} "
                assert re.match(rf'#+ <a id="[^"]+"></a>{re.escape(heading)}', line), line


def test_every_page_names_its_place_in_the_paper():
    index = (ROOT / "docs" / "spec" / "index.md").read_text()
    for page in PAGES:
        if page.stem != "index":
            assert f"]({page.name})" in index

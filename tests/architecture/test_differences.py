"""Every deliberate difference from the official code is marked in the source and documented."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "differences.md"
DIRECTORIES = ("ofa_jax", "tasks", "mixtures", "gin_configs", "launch")
MARK = re.compile(r"OFA-NOTE:?\s*(\S.*)")
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
# A row of the page may quote as much of the mark's line as it likes, but at least this.
FEWEST_WORDS = 5


def marks() -> list[tuple[str, str]]:
    """(file, rest of the line after OFA-NOTE) of every mark."""
    found = []
    for directory in DIRECTORIES:
        for path in sorted((ROOT / directory).rglob("*")):
            if path.suffix not in (".py", ".gin"):
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                if match := MARK.search(line):
                    found.append((path.relative_to(ROOT).as_posix(), match.group(1).strip()))
    return found


def documented() -> list[tuple[str, str]]:
    """(file, quoted first words) of every row of the page."""
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_every_mark_is_documented():
    rows = documented()
    missing = [
        f"{file}: {text}"
        for file, text in marks()
        if not any(file == where and text.startswith(words) for where, words in rows)
    ]
    assert not missing, f"docs/differences.md lacks: {missing}"


def test_every_documented_difference_is_in_the_code():
    found = marks()
    stale = [
        f"{where}: {words}"
        for where, words in documented()
        if not any(file == where and text.startswith(words) for file, text in found)
    ]
    assert not stale, f"docs/differences.md lists what the code no longer says: {stale}"


def test_rows_quote_enough_to_tell_marks_apart():
    rows = documented()
    assert len(set(rows)) == len(rows) >= 15
    short = [words for _, words in rows if len(words.split()) < FEWEST_WORDS]
    assert not short, short


def test_every_mark_names_its_section():
    specs = ("SPEC ", "VQGAN_SPEC ")
    unnamed = [f"{file}: {text}" for file, text in marks() if not text.startswith(specs)]
    assert not unnamed, unnamed

"""Hook of the site: code that a page links to gets a page, so the site is whole offline."""

from __future__ import annotations

import ast
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[2]
_LINK = re.compile(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")
_LEXERS = {".gin": "python", ".py": "python", ".md": "markdown", ".sh": "bash", ".json": "json"}


def _outside(page: str, link: str) -> str | None:
    """Path from the root of the repository of a link that leaves docs, else None."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith(("docs/", "..")) or target == "docs" else target


def _summary(path: pathlib.Path) -> str:
    if path.suffix != ".py":
        return ""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _shown(target: str) -> str:
    """The page of a file or directory."""
    path = ROOT / target
    if path.is_dir():
        rows = [
            f"- `{child.name}` {_summary(child)}"
            for child in sorted(path.iterdir())
            if child.is_file() and not child.name.startswith(("_", "."))
        ]
        return f"# {target}/\n\n" + "\n".join(rows) + "\n"
    lexer = _LEXERS.get(path.suffix, "text")
    # A fence longer than any in the file.
    return f"# {target}\n\n``````{lexer}\n{path.read_text(encoding='utf-8').rstrip()}\n``````\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds a page for each file and directory outside of docs that a page links to."""
    targets = set()
    for file in files.documentation_pages():
        for link, _ in _LINK.findall(file.content_string):
            target = _outside(file.src_uri, link)
            if target and (ROOT / target).exists():
                targets.add(target)
    for target in sorted(targets):
        files.append(File.generated(config, f"source/{target}.md", content=_shown(target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Points links at these pages; one whose target does not exist stays and fails the build."""

    def moved(match: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, match[1])
        if target is None or not (ROOT / target).exists():
            return match[0]
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"]({posixpath.relpath(f'source/{target}.md', start)})"

    return _LINK.sub(moved, markdown)

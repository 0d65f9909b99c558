"""Whether this commit can be released: `python -m tests.release`, behind `make release-check`.

A release is a tag `vX.Y.Z` on a clean commit whose CHANGELOG has a dated section of that version.
A wheel is built of the checkout and of a source archive, which has no history.
"""

from __future__ import annotations

import datetime
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>\S+)$", re.MULTILINE)


def sections(changelog: str) -> dict[str, str]:
    """Versions of a CHANGELOG with their dates, newest first."""
    return {match["version"]: match["date"] for match in _SECTION.finditer(changelog)}


def mistakes_of(version: str, changelog: str) -> list[str]:
    """What in a CHANGELOG speaks against a release of a version."""
    found = sections(changelog)
    if version not in found:
        return [f"CHANGELOG.md has no section '## [{version}] - DATE'"]
    try:
        datetime.date.fromisoformat(found[version])
    except ValueError:
        return [f"CHANGELOG.md: {version} is dated {found[version]!r}, not YYYY-MM-DD"]
    newest = next(name for name in found if found[name] != "unreleased")
    return [] if newest == version else [f"CHANGELOG.md: {newest} stands above {version}"]


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def wheel_of(source: pathlib.Path, directory: pathlib.Path) -> tuple[str, list[str]]:
    """Builds a wheel; returns its version and the requirements that PyPI refuses."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, str(directory), str(source)], check=True)
    [path] = directory.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = wheel.read(name).decode().partition("\n\n")[0].splitlines()
    refused = [line for line in metadata if line.startswith("Requires-Dist:") and " @ " in line]
    return path.name.split("-")[1], refused


def main() -> int:
    """Prints what speaks against a release; returns 1 where something does."""
    tag = _git("describe", "--exact-match", "--tags", "--match", "v*")
    version = tag.removeprefix("v")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    mistakes = mistakes_of(version, changelog) if tag else ["this commit has no tag vX.Y.Z"]
    if changed := _git("status", "--porcelain"):
        mistakes.append(f"the checkout is not as committed:\n{changed}")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        subprocess.run(
            ["git", "archive", "--output", str(directory / "source.tar"), "HEAD"],
            cwd=ROOT,
            check=True,
        )
        with tarfile.open(directory / "source.tar") as archive:
            archive.extractall(directory / "source", filter="data")
        for source, what in ((ROOT, "checkout"), (directory / "source", "archive")):
            built, refused = wheel_of(source, directory / what)
            print(f"wheel of the {what}: {built}")
            if tag and built != version:
                mistakes.append(f"the wheel of the {what} is of version {built}, not {version}")
            mistakes += [f"PyPI refuses {line}" for line in refused]
    for line in mistakes:
        print(f"error: {line}", file=sys.stderr)
    print("release-check: " + ("no" if mistakes else f"{version} can be released"))
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())

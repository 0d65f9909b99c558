"""What stands against a release, and that every Python is checked that the project allows."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.release import mistakes_of, sections

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CHANGELOG = """# Changes

## [0.3.0] - unreleased

- x

## [0.2.0] - 2026-11-29

## [0.1.0] - soon
"""


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.2.0", []),
        ("0.1.0", ["CHANGELOG.md: 0.1.0 is dated 'soon', not YYYY-MM-DD"]),
        ("0.3.0", ["CHANGELOG.md: 0.3.0 is dated 'unreleased', not YYYY-MM-DD"]),
        ("0.4.0", ["CHANGELOG.md has no section '## [0.4.0] - DATE'"]),
    ],
)
def test_changelog_of_a_release(version, said):
    assert mistakes_of(version, CHANGELOG) == said


def test_our_changelog_has_sections():
    assert sections((ROOT / "CHANGELOG.md").read_text("utf-8"))


def test_no_requirement_is_an_address():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(one for group in extras.values() for one in group)]
    assert not [one for one in wanted if " @ " in one or "://" in one]


def test_the_core_is_without_the_input_stack():
    names = {re.match(r"[\w-]+", one)[0] for one in PROJECT["dependencies"]}
    assert not names & {"tensorflow", "seqio", "clu", "grain", "matplotlib"}
    train = {re.match(r"[\w-]+", one)[0] for one in PROJECT["optional-dependencies"]["train"]}
    assert {"tensorflow", "seqio", "clu", "grain"} <= train


def pinned(name):
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_fit_the_bounds(name):
    versions = pinned(name)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(one for group in extras.values() for one in group)]
    for one in map(Requirement, wanted):
        version = versions.get(canonicalize_name(one.name))
        assert version is None or one.specifier.contains(version), f"{one}: {version} is pinned"


def test_the_lower_bounds_are_tested():
    versions = pinned("constraints-oldest.txt")
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["train"]
    for one in map(Requirement, wanted):
        [lower] = [bound.version for bound in one.specifier if bound.operator == ">="]
        assert versions[canonicalize_name(one.name)] == Version(lower), one


def test_workflows_check_every_python():
    text = (ROOT / ".github" / "workflows" / "checks.yml").read_text("utf-8")
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert all(f'"3.{minor}"' in text for minor in range(int(low), int(high)))
    assert "bash .ci/run" in text
    assert "-c constraints-oldest.txt" in text
    assert "cron:" in text

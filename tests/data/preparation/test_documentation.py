"""docs/prepare.md lists every option of the command and every reason, and no other."""

import pathlib
import re

from ofa_jax.cli import prepare
from ofa_jax.data.preparation.reasons import Reason

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "prepare.md"
ROW = re.compile(r"^\| (`[^|]+?) \|", re.MULTILINE)


def test_every_reason_is_a_row():
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert {reason.value: reason.meaning for reason in Reason}.items() <= rows.items()


def test_every_option_is_a_row():
    text = PAGE.read_text(encoding="utf-8")
    documented = {name for row in ROW.findall(text) for name in re.findall(r"`(--\w+)`", row)}
    options = {
        name
        for action in prepare._parser()._actions
        for name in action.option_strings
        if name.startswith("--")
    }
    elsewhere = {"--help", "--source", "--out", "--verify", "--engine", "--beam_options"}
    assert documented == options - elsewhere
    assert all(name in text for name in elsewhere)

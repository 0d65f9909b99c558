"""A bar on a terminal, lines with ETA elsewhere."""

import io
import logging
import sys

from ofa_jax.progress import Progress


def test_without_a_terminal_it_is_a_line_per_interval(caplog):
    with caplog.at_level(logging.INFO, logger="ofa_jax"):
        every = Progress("train", 100, unit="record", interval=0.0)
        every.update(20, "0 dropped")
        every.update(60, "10 dropped")
        every.close()
        rare = Progress("images", unit="image")
        for done in (0, 1, 2):
            rare.update(done, total=2)
        Progress("silent", 1, shown=False).update(1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "train: going on after 20 records"
    assert lines[1].startswith("train: 60/100 records, 10 dropped, ")
    assert "ETA 0 s" in lines[1]
    assert lines[2].startswith("images: 2/2 images, "), "the end is always said"
    assert len(lines) == 3


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("train", 100, unit="record")
    progress.update(0)
    progress.update(100, "10 dropped")
    last = terminal.getvalue().rsplit("\r", 1)[1]
    assert "train: 100%" in last
    assert "100/100" in last
    assert "10 dropped" in last

"""The account of a run's time over its restarts."""

import json

import pytest

from ofa_jax.training.goodput import GoodputLedger, account


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def ledger_at(path, step, clock, before=0.0, now=None):
    return GoodputLedger(path, step, before=before, clock=clock, now=now or clock)


def test_restarts_lost_steps_and_down_time(tmp_path):
    clock, path = Clock(), tmp_path / "goodput.json"
    first = ledger_at(path, 0, clock, before=10.0)
    clock.now = 1100.0
    # 100 steps in 80 s; the last checkpoint was at step 75.
    line = first.update(100, {"step": 80.0, "save": 5.0, "compile": 15.0})
    assert line.share == pytest.approx(80 / 110)
    assert line.parts["start"] == 10.0
    assert line.parts["other"] == 0.0

    clock.now = 1160.0
    second = ledger_at(path, 75, clock, before=10.0)
    clock.now = 1200.0
    run = second.update(125, {"step": 40.0})
    assert run.sessions == 2
    assert run.wall == 210.0
    assert run.lost == pytest.approx(20.0), "25 of 100 steps were done twice"
    assert run.productive == pytest.approx(60.0 + 40.0)
    assert run.down == 50.0
    assert run.parts == {"start": 20.0, "save": 5.0, "compile": 15.0, "other": 0.0}
    total = run.productive + run.lost + run.down + sum(run.parts.values())
    assert total == pytest.approx(run.wall)
    text = str(run)
    assert text.startswith("48% of 210 s in 2 starts were steps that count; ")
    assert "down 24%" in text
    assert "lost steps 10%" in text


def test_a_damaged_account_begins_anew(tmp_path):
    clock, path = Clock(), tmp_path / "goodput.json"
    path.write_text('{"sessions": [')
    ledger = ledger_at(path, 10, clock)
    clock.now += 5.0
    assert ledger.update(20, {"step": 4.0}).sessions == 1
    assert len(json.loads(path.read_text())["sessions"]) == 1


def test_what_comes_before_the_first_checkpoint_is_lost(tmp_path):
    clock, path = Clock(), tmp_path / "goodput.json"
    for _ in range(2):
        ledger = ledger_at(path, 0, clock)
        clock.now += 10.0
        run = ledger.update(5, {"step": 8.0})
    assert (run.sessions, run.wall, run.productive, run.lost) == (2, 20.0, 8.0, 8.0)


def test_a_start_behind_several_sessions_makes_all_of_their_steps_lost():
    steps = [(0, 10), (10, 20), (5, 20)]
    sessions = [
        {
            "started": 10.0 * number,
            "ended": 10.0 * number + 10.0,
            "first_step": first,
            "last_step": last,
            "seconds": {"step": 10.0},
        }
        for number, (first, last) in enumerate(steps)
    ]
    run = account(sessions)
    assert (run.productive, run.lost) == (5.0 + 0.0 + 10.0, 5.0 + 10.0)


def test_a_session_without_a_step_counts_as_time_only():
    session = {
        "started": 0.0,
        "ended": 10.0,
        "first_step": 5,
        "last_step": 5,
        "seconds": {"start": 7.0, "step": 2.0},
    }
    run = account([session])
    assert (run.productive, run.lost) == (0.0, 2.0)
    assert run.parts == {"start": 7.0, "other": 1.0}


def test_a_clock_that_is_set_back_takes_no_time_away(tmp_path):
    """Sessions are measured by a clock that nobody sets; only the pauses between them are not."""
    clock, of_day, path = Clock(), Clock(), tmp_path / "goodput.json"
    first = ledger_at(path, 0, clock, before=20.0, now=of_day)
    clock.now, of_day.now = 1080.0, 1000.0 - 863_720.0
    run = first.update(50, {"step": 60.0})
    assert (run.wall, run.productive, run.share) == (100.0, 60.0, 0.6)
    second = ledger_at(path, 50, clock, now=of_day)
    clock.now += 40.0
    run = second.update(100, {"step": 30.0})
    assert (run.wall, run.down, run.productive) == (140.0, 0.0, 90.0)
    assert all(value >= 0 for value in run.parts.values())


def test_a_session_that_ended_before_it_began_counts_what_was_measured():
    """As an older version wrote it down when the clock was set back."""
    session = {
        "started": 1_000_000.0,
        "ended": 136_280.0,
        "first_step": 0,
        "last_step": 10,
        "seconds": {"start": 5.0, "step": 20.0},
    }
    run = account([session])
    assert (run.wall, run.productive, run.parts["other"]) == (25.0, 20.0, 0.0)
    assert str(run).startswith("80% of 25 s in 1 start ")

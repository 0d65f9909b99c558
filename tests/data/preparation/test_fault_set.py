"""2,000 records, 5 percent broken: those are dropped, for the right reasons, and no others."""

import json

import pytest

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.left_out import NAMED
from tests.data.preparation import fault_set

RECORDS, BROKEN = 2_000, 100


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    return fault_set.write(directory, records=RECORDS, broken=BROKEN)


def command(faults, out, *more):
    return [
        "--source=tsv",
        "--layout=vision_language",
        f"--paths={faults.path}",
        f"--out={out}",
        *more,
    ]


@pytest.fixture(scope="module")
def prepared(faults):
    out = faults.path.parent / "prepared"
    # One row of 20,000 words and one whose pixels are a bomb are among them.
    assert run_prepare(command(faults, out, "--processes=1", "--num_shards=4")) == 0
    return out


def test_exactly_the_broken_records_are_dropped(faults, prepared):
    assert len(set(faults.broken.values())) == len(fault_set.FAULTS)
    entry = json.loads((prepared / "manifest.json").read_text())["splits"]["train"]
    assert (entry["records"], entry["examples"]) == (RECORDS, RECORDS - BROKEN)
    assert sum(entry["kinds"].values()) == RECORDS - BROKEN
    assert set(entry["kinds"]) == {"caption", "qa", "visual_grounding"}
    expected = faults.expected()
    assert {name: found["count"] for name, found in entry["dropped"].items()} == {
        name: len(places) for name, places in expected.items()
    }
    for name, places in expected.items():
        named = entry["dropped"][name]["examples"]
        assert [example["record"] for example in named] == places[:NAMED]
        for example in named:
            fault = faults.broken[example["record"]]
            # A row that cannot be read has no id; the detail names its line instead.
            if example["id"] is None:
                assert f"line {example['record'] + 1}:" in example["detail"]
            else:
                assert example["id"] == f"{fault}-{example['record']}"


def test_what_is_kept_is_whole_and_in_order(faults, prepared):
    records = PreparedSource(str(prepared)).open("train")
    assert len(records) == RECORDS - BROKEN
    good = [record for record in range(RECORDS) if record not in faults.broken]
    for place in (0, 1, 2, 777, len(records) - 1):
        assert records[place]["image_id"] == f"good-{good[place]}"


def test_rows_of_a_chosen_type(faults, tmp_path):
    """Damaged rows do not end it; one without a type that can be known is counted as well."""
    out = tmp_path / "out"
    assert run_prepare(command(faults, out, "--types=qa", "--processes=1")) == 0
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    good = sum(record % 3 == 1 for record in range(RECORDS) if record not in faults.broken)
    assert entry["kinds"] == {"qa": good}
    untyped = sum(fault == "columns" for fault in faults.broken.values())
    dropped = {name: found["count"] for name, found in entry["dropped"].items()}
    assert dropped == {"wrong_column_count": untyped}


def test_strict_stops_at_the_first_of_them(faults, tmp_path, capsys):
    assert run_prepare(command(faults, tmp_path / "out", "--strict", "--processes=1")) == 2
    first = min(faults.broken)
    expected = fault_set.FAULTS[faults.broken[first]][1].value
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: record {first}")
    assert expected in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_limit_takes_the_first_records(faults, tmp_path):
    out = tmp_path / "out"
    assert run_prepare(command(faults, out, "--limit=50", "--processes=1")) == 0
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    bad = sum(record < 50 for record in faults.broken)
    assert (entry["records"], entry["examples"]) == (50, 50 - bad)

"""The gin files of the two engines say the same: sizes, macros, mixtures. Needs no t5x."""

import pathlib
import re

import pytest

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "gin_configs"
SIZES = sorted(path.name for path in (CONFIGS / "models").glob("*.gin"))
MACRO = re.compile(r"^([A-Z][A-Z_]+) = (.*)$", re.MULTILINE)
INCLUDE = re.compile(r'^include "gin_configs/(.+)"$', re.MULTILINE)


def settings(path: pathlib.Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    skipped = ("#", "from ", "MODEL =", "models.OFAModel.model =")
    return [line for line in lines if line and not line.startswith(skipped)]


def macros(path: pathlib.Path) -> dict[str, str]:
    """Macros of a file and of those that it includes, the latter first."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for included in INCLUDE.findall(text):
        found |= macros(CONFIGS / included)
    return found | dict(MACRO.findall(text))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_there_with_the_same_settings(size):
    ours = CONFIGS / "t5x" / "models" / size
    assert settings(ours) == settings(CONFIGS / "models" / size)
    assert "models.OFAModel.model = @models.OFA()" in ours.read_text(encoding="utf-8")


def test_there_are_six_sizes():
    assert len(SIZES) == len(list((CONFIGS / "t5x" / "models").glob("*.gin"))) == 6


# How long and how fast the quickstart learns is tuned for its own batches, of three shapes.
TUNED = {"TRAIN_STEPS", "EVAL_PERIOD", "LEARNING_RATE", "WARMUP_STEPS", "BATCH_SIZE"}


@pytest.mark.parametrize(
    ("name", "own"), [("train", set()), ("quickstart", TUNED), ("pretrain", set())]
)
def test_macros_are_those_of_the_native_runner(name, own):
    native = macros(CONFIGS / "runs" / f"{name}.gin")
    upstream = macros(CONFIGS / "t5x" / f"{name}.gin")
    missing = native.keys() - upstream.keys()
    assert not missing, f"gin_configs/t5x/{name}.gin has no {', '.join(sorted(missing))}"
    for macro in native.keys() - {"MODEL", "MODEL_DIR"} - own:
        assert upstream[macro] == native[macro], macro


def test_macros_of_the_design_exist():
    names = macros(CONFIGS / "t5x" / "quickstart.gin")
    for macro in (
        "MODEL",
        "MIXTURE_OR_TASK_NAME",
        "TASK_FEATURE_LENGTHS",
        "TRAIN_STEPS",
        "BATCH_SIZE",
        "MODEL_DIR",
        "INITIAL_CHECKPOINT_PATH",
        "EVAL_PERIOD",
        "DROPOUT_RATE",
    ):
        assert macro in names


@pytest.mark.parametrize("name", ["train", "quickstart", "pretrain"])
def test_periods_are_multiples_of_each_other(name):
    """t5x trains in stretches of the shorter one, and refuses others."""
    found = macros(CONFIGS / "t5x" / f"{name}.gin")
    periods = [int(found[macro]) for macro in ("EVAL_PERIOD", "CHECKPOINT_PERIOD")]
    assert 0 in periods or max(periods) % min(periods) == 0

"""One set of model, run and fine-tune files serves both engines. Needs no t5x."""

import pathlib
import re

import gin
import pytest

from ofa_jax.cli import bindings, engines

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "gin_configs"
SHARED = sorted(
    str(path.relative_to(CONFIGS))
    for directory in ("models", "runs", "sharding")
    for path in (CONFIGS / directory).rglob("*.gin")
    # An image tokenizer is trained by the native runner alone.
    if path.name != "image_tokenizer.gin"
)
MACRO = re.compile(r"^([A-Z][A-Z_]+) = (.*)$", re.MULTILINE)
INCLUDE = re.compile(r'^include "gin_configs/(.+)"$', re.MULTILINE)
NAME = re.compile(r"^@?([a-z_]+\.[A-Za-z]+)(?:\.\w+)? ?[=:]|= @([a-z_]+\.\w+)", re.MULTILINE)


def macros(path: pathlib.Path) -> dict[str, str]:
    """Macros of a file and of those that it includes, the latter first."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for included in INCLUDE.findall(text):
        found |= macros(CONFIGS / included)
    return found | dict(MACRO.findall(text))


@pytest.mark.parametrize("name", SHARED)
def test_shared_files_bind_what_both_engines_have(name):
    text = (CONFIGS / name).read_text(encoding="utf-8")
    used = {first or second for first, second in NAME.findall(text)}
    assert used <= set(bindings.SHARED)
    assert not engines.is_of_t5x(text)
    assert not re.search("include .gin_configs/(native|t5x)", text)


@pytest.mark.parametrize("name", SHARED)
def test_shared_files_are_read_with_the_shared_names_alone(name):
    """As under t5x, where a file of the engine comes first."""
    gin.clear_config()
    bindings.register_all(bindings.SHARED)
    gin.add_config_file_search_path(str(CONFIGS.parent))
    gin.parse_config_file(str(CONFIGS / name))
    gin.clear_config()


def test_there_are_six_sizes_and_more_than_forty_fine_tuning_files():
    assert sum(name.startswith("models/") for name in SHARED) == 6
    assert sum(name.startswith("runs/finetune/") for name in SHARED) > 40


@pytest.mark.parametrize("engine", ["native", "t5x"])
def test_the_engines_read_the_macros_of_the_run_files(engine):
    shared = macros(CONFIGS / "runs" / "train.gin")
    text = (CONFIGS / engine / "train.gin").read_text(encoding="utf-8")
    text += (CONFIGS / "t5x" / "mixture.gin").read_text(encoding="utf-8") * (engine == "t5x")
    own = {"TRAIN_STEPS", "MODEL_DIR", "EVAL_PERIOD", "STATS_PERIOD", "RANDOM_SEED"}
    own |= {"CHECKPOINT_PERIOD", "KEEP_CHECKPOINTS", "INITIAL_CHECKPOINT_PATH"}
    own |= {"BEST_METRIC", "SAVE_TRAINED"}
    assert own <= shared.keys()
    for macro in own:
        assert f"= %{macro}" in text, macro


@pytest.mark.parametrize("name", ["train", "quickstart", "pretrain"])
def test_periods_are_multiples_of_each_other(name):
    """t5x trains in stretches of the shorter one, and refuses others."""
    found = macros(CONFIGS / "t5x" / f"{name}.gin")
    periods = [int(found[macro]) for macro in ("EVAL_PERIOD", "CHECKPOINT_PERIOD")]
    assert 0 in periods or max(periods) % min(periods) == 0

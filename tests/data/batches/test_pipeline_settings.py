"""What gin can say about the input, and that the pipeline understands it."""

import ast
import pathlib

import pytest

from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.task import PRETRAINING_FAMILIES
from ofa_jax.runs.settings import DatasetConfig
from tests.data.batches.numbered import LENGTHS, make_task

ROOT = pathlib.Path(__file__).resolve().parents[3]


def config(**options):
    return DatasetConfig("mixture", LENGTHS, 4, **options)


def pipeline(settings):
    tasks = (make_task("captions", size=30), make_task("others", size=10))
    return MixturePipeline(
        tasks, (1.0, 1.0), LENGTHS, settings.batch_size, seed=settings.seed, **settings.mixing
    )


def test_settings_reach_the_pipeline():
    settings = config(
        rate_by="examples",
        maximum=20,
        temperature=2.0,
        rate_schedule={0: {"others": 2.0}, 10: {"others": 1.0}},
        rate_interpolation="constant",
        buckets={"others": {"targets": 7}},
        on_bad_record="skip",
    )
    mixture = pipeline(settings)
    for name, value in settings.mixing.items():
        assert getattr(mixture, name) == value
    weight = (10 / 20) ** 0.5
    assert mixture.shares(3)[1] == pytest.approx(2 * weight / (1 + 2 * weight))
    assert mixture.shares(10)[1] == pytest.approx(weight / (1 + weight))
    assert {len(mixture.batch(step)["decoder_target_tokens"][0]) for step in range(9)} == {7, 12}


def test_the_defaults_are_those_of_the_pipeline():
    tasks = (make_task("captions"),)
    plain = MixturePipeline(tasks, (1.0,), LENGTHS, 4)
    for name, value in config().mixing.items():
        assert getattr(plain, name) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_by": "size"}, "rate_by must be one of 'declared', 'examples'"),
        ({"rate_interpolation": "cubic"}, "rate_interpolation must be one of 'linear', 'constant'"),
        ({"on_bad_record": "ignore"}, "on_bad_record must be one of 'error', 'skip'"),
        ({"temperature": 0}, "temperature must be a number from 1e-09"),
        ({"maximum": -3}, "maximum must be a number from 1e-09"),
        ({"rate_by": "examples", "rates": {"vqa": 2.0}}, "a rate can only be 0"),
        ({"rate_schedule": {"0": {}}}, "a key of .*rate_schedule must be a whole number"),
        ({"rate_schedule": {0: 2.0}}, r"rate_schedule\[0\] must be a dictionary"),
        ({"buckets": {"vqa": 256}}, r"buckets\['vqa'\] must be a dictionary"),
        ({"buckets": {"vqa": {"pixels": 256}}}, "'vqa' needs lengths by name"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message) as error:
        config(**options)
    assert "DatasetConfig" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_buckets_of_the_page_are_those_of_the_run_file():
    start = "DatasetConfig.buckets = "
    page = (ROOT / "docs" / "input.md").read_text(encoding="utf-8")
    run_file = (ROOT / "gin_configs" / "runs" / "pretrain_buckets.gin").read_text(encoding="utf-8")
    declared = ast.literal_eval(run_file.partition(start)[2])
    assert ast.literal_eval(page.partition(start)[2].partition("```")[0]) == declared
    assert set(declared) == set(PRETRAINING_FAMILIES)
    assert config(buckets=declared).buckets == declared

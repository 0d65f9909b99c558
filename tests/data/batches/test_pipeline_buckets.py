"""Buckets, rates that change and bad records: still one global batch t, whoever reads it."""

import collections
import dataclasses
import re

import numpy as np
import pytest

import tasks.scenes  # noqa: F401 (registers tasks)
from ofa_jax.data.batches.buckets import by_task
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.data.tasks.task import check_lengths
from tasks import instructions
from tests.data.batches.batch_values import assert_same, take
from tests.data.batches.numbered import LENGTHS, SIZE, Flicker, Numbered, NumberedRecords, make_task

IMAGE_KEYS = {"encoder_images", "encoder_image_masks", "encoder_image_holes"}


@dataclasses.dataclass(frozen=True)
class SomeBroken(Numbered):
    """Every fourth record has an image that cannot be decoded."""

    def open(self, split):
        return SomeBrokenRecords(self.size, split)


class SomeBrokenRecords(NumberedRecords):
    def __getitem__(self, index):
        if index % 4 == 3:
            raise ValueError(f"cannot decode the image of number {index}")
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True)
class Half:
    """Halves the picture: the preparation of a task in a smaller bucket."""

    def __call__(self, example, rng):
        size = example["model_image_size"]
        return {**example, "image": example["image"][:size, :size]}


CAPTIONS = make_task("captions", prepare=(Flicker(),))
SMALL = make_task("small", size=7, prepare=(Half(), Flicker()))
TEXTS = make_task("texts", instructions.TEXT_INFILLING, size=5, loss_weight=2.0)
BROKEN = dataclasses.replace(make_task("broken", prepare=(Flicker(),)), source=SomeBroken(8))


def pipeline(**options):
    settings = {
        "tasks": (CAPTIONS, SMALL, TEXTS, BROKEN),
        "rates": (4.0, 2.0, 1.0, 2.0),
        "lengths": LENGTHS,
        "batch_size": 4,
        "seed": 3,
        "rate_schedule": {0: {"captions": 0.5}, 20: {"captions": 1.0, "texts": 2.0}},
        "buckets": {
            "small": {"image": SIZE // 2, "targets": 8},
            "texts": {"image": 0, "targets": 11},
        },
        "on_bad_record": "skip",
    }
    return MixturePipeline(**(settings | options))


def shapes(batch):
    return {key: value.shape[1:] for key, value in batch.items()}


def test_every_batch_has_the_shapes_of_its_bucket():
    mixture = pipeline()
    by_bucket = (
        LENGTHS,
        {"inputs": 40, "targets": 8, "image": SIZE // 2},
        {"inputs": 40, "targets": 11, "image": 0},
    )
    seen = collections.Counter()
    for step in range(40):
        plan, batch = mixture.plan(step), mixture.batch(step)
        lengths = by_bucket[plan.bucket]
        np.testing.assert_array_equal(batch["task_ids"], plan.task_ids)
        assert batch["decoder_target_tokens"].shape == (4, lengths["targets"])
        assert batch["encoder_input_tokens"].shape == (4, lengths["inputs"])
        if lengths["image"]:
            assert batch["encoder_images"].shape == (4, lengths["image"], lengths["image"], 3)
        else:
            assert not IMAGE_KEYS & batch.keys()
        seen[plan.bucket] += 1
    expected = sum(mixture.shares(step)[2] for step in range(40))
    assert seen[2] == pytest.approx(expected, abs=1)
    assert set(seen) == {0, 1, 2}
    whole = mixture.example_batch(2)
    assert shapes(whole)["encoder_images"] == (SIZE, SIZE, 3)
    assert shapes(whole)["decoder_target_tokens"] == (LENGTHS["targets"],)
    assert not whole["decoder_loss_weights"].any()


def test_all_hosts_run_the_same_bucket_and_together_the_same_batch():
    for step in (0, 3, 11, 30):
        whole = pipeline().batch(step)
        for hosts in (2, 4):
            parts = [pipeline(num_hosts=hosts, host=host).batch(step) for host in range(hosts)]
            for key, value in whole.items():
                joined = np.stack([part[key] for part in parts], axis=1)
                np.testing.assert_array_equal(joined.reshape(value.shape), value, err_msg=key)


def test_resuming_anywhere_and_worker_processes_change_nothing():
    expected = [pipeline().batch(step) for step in range(24)]
    for start in (0, 7, 19):
        for step, batch in enumerate(take(pipeline(num_threads=2), 24 - start, start), start):
            assert_same(batch, expected[step])
    for workers, start, host in ((1, 5, 0), (2, 12, 1)):
        mixture = pipeline(num_workers=workers, num_hosts=2, host=host)
        for step, batch in enumerate(take(mixture, 8, start), start):
            mine = {key: value[host::2] for key, value in expected[step].items()}
            assert_same(batch, mine)
        assert mixture.skipped.read["broken"] > 0


# Bad records.


def broken_only(**options):
    return pipeline(
        tasks=(BROKEN, CAPTIONS), rates=(1.0, 1.0), rate_schedule={}, buckets={}, **options
    )


def test_bad_records_become_examples_without_weight_and_are_counted(caplog):
    mixture = broken_only()
    batches = take(mixture, 16)
    rows = [
        {key: value[number] for key, value in batch.items()}
        for batch in batches
        for number in range(4)
        if batch["task_ids"][number] == 0
    ]
    # Each epoch reads the eight records once, of which two are bad.
    assert len(rows) == 32
    for epoch in range(4):
        weights = [row["decoder_loss_weights"].any() for row in rows[8 * epoch : 8 * epoch + 8]]
        assert weights.count(False) == 2
    for row in rows:
        if not row["decoder_loss_weights"].any():
            assert not row["encoder_images"].any()
            assert not row["encoder_image_masks"]
    assert mixture.skipped.bad == {"broken": 8}
    assert mixture.skipped.read == {"broken": 32, "captions": 32}
    assert mixture.skipped.total == 8
    assert "cannot decode the image of number" in mixture.skipped.reasons["broken"][0]
    assert "task 'broken', record" in caplog.text
    # Batches read alone are not counted.
    mixture.batch(0)
    assert mixture.skipped.total == 8


def test_the_other_examples_of_a_batch_stay_as_they_are():
    whole = dataclasses.replace(BROKEN, source=Numbered(8))
    kept = 0
    for step in range(8):
        batch = broken_only().batch(step)
        expected = (
            broken_only()
            .__class__(
                tasks=(whole, CAPTIONS),
                rates=(1.0, 1.0),
                lengths=LENGTHS,
                batch_size=4,
                seed=3,
            )
            .batch(step)
        )
        good = batch["decoder_loss_weights"].any(axis=1)
        kept += good.sum()
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key][good], value[good], err_msg=key)
    assert 20 < kept < 32


def test_a_bad_record_stops_the_run_where_it_is_not_skipped():
    with pytest.raises(InstructionError, match=r"task 'broken', record \d: cannot decode"):
        take(broken_only(on_bad_record="error"), 8)


def test_a_task_that_is_mostly_bad_stops_the_run():
    wrong = make_task("wrong", instructions.VQA)  # the records have no question
    mixture = broken_only().__class__(
        tasks=(wrong,), rates=(1.0,), lengths=LENGTHS, batch_size=16, on_bad_record="skip"
    )
    with pytest.raises(ValueError, match=r"64 .*first 64 .*'wrong'"):
        take(mixture, 10)
    assert "no field 'question'" in mixture.skipped.reasons["wrong"][0]


@dataclasses.dataclass(frozen=True)
class Fails:
    error: Exception

    def __call__(self, example, rng):
        raise self.error


def test_an_error_of_the_disk_is_no_bad_record():
    failing = make_task("failing", prepare=(Fails(OSError("input/output error")),))
    mixture = dataclasses.replace(broken_only(), tasks=(failing, CAPTIONS))
    with pytest.raises(OSError, match="input/output"):
        mixture.batch(0)
    odd = make_task("odd", prepare=(Fails(IndexError("list index")),))
    assert dataclasses.replace(broken_only(), tasks=(odd, CAPTIONS)).batch(0)


@dataclasses.dataclass(frozen=True)
class Doubtful:
    def __call__(self, example, rng):
        return {**example, "confidence": float("nan")}


def test_a_confidence_that_is_no_number_never_reaches_the_loss():
    task = make_task("doubtful", prepare=(Doubtful(),))
    mixture = dataclasses.replace(broken_only(), tasks=(task, CAPTIONS))
    for step in range(4):
        assert np.isfinite(mixture.batch(step)["decoder_loss_weights"]).all()
    with pytest.raises(InstructionError, match=r"confidence .*finite"):
        dataclasses.replace(mixture, on_bad_record="error").batch(0)


# Rates.


def test_mixing_by_the_number_of_examples_with_cap_and_temperature():
    options = {
        "tasks": (make_task("many", size=400), make_task("few", size=100)),
        "rates": (1.0, 1.0),
        "rate_schedule": {},
        "buckets": {},
        "rate_by": "examples",
    }
    shares = {
        (None, 1.0): [0.8, 0.2],
        (200, 1.0): [2 / 3, 1 / 3],
        (None, 2.0): [2 / 3, 1 / 3],
        (None, 1e9): [0.5, 0.5],
    }
    for (maximum, temperature), expected in shares.items():
        mixture = pipeline(**options, maximum=maximum, temperature=temperature)
        np.testing.assert_allclose(mixture.shares(0), expected, rtol=1e-6)
    declared = pipeline(**(options | {"rate_by": "declared", "rates": (9.0, 1.0)}), temperature=2.0)
    np.testing.assert_allclose(declared.shares(5), [0.75, 0.25])


def test_schedules_name_tasks_or_families():
    twin = dataclasses.replace(SMALL, family="captions")
    options = {"tasks": (CAPTIONS, twin, TEXTS), "rates": (1.0, 1.0, 2.0), "buckets": {}}
    both = pipeline(**options, rate_schedule={0: {"captions": 0.0}, 10: {"captions": 1.0}})
    np.testing.assert_allclose(both.shares(0), [0, 0, 1])
    np.testing.assert_allclose(both.shares(5), [0.125, 0.125, 0.75])
    # A task's own name wins over its family's.
    one = pipeline(**options, rate_schedule={0: {"captions": 0.0, "small": 1.0}})
    np.testing.assert_allclose(one.shares(0), [0, 1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": {"txets": {}}}, "has no task 'txets'; did you mean texts"),
        ({"buckets": {"texts": {"targets": 13}}}, r"task_feature_lengths\['targets'\] = 12"),
        ({"buckets": {"texts": {"targets": 0}}}, "from 1 to"),
        ({"buckets": {"texts": {"length": 3}}}, "may name image, inputs, targets, got length"),
        ({"buckets": {"small": {"image": 0}}}, "task 'small' reads images"),
        ({"buckets": {"small": {"targets": 1}}}, r"buckets: .*\['targets'\] = 1 is too short"),
        ({"rate_schedule": {0: {"zzz": 1.0}}}, "mixture has no task 'zzz'; known: broken"),
        ({"rate_schedule": {5: {"captions": -1.0}}}, "must not be negative"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"rate_by": "size"}, "rate_by must be one of declared, examples"),
        ({"on_bad_record": "drop"}, "on_bad_record must be one of error, skip"),
        ({"rate_interpolation": "cubic"}, "must be one of linear, constant"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**options).batch(0)


def test_too_many_buckets_are_refused():
    tasks = tuple(make_task(f"task{number}") for number in range(9))
    buckets = {task.name: {"inputs": 20 + number} for number, task in enumerate(tasks)}
    with pytest.raises(ValueError, match=r"9 buckets.* 8"):
        pipeline(tasks=tasks, rates=(1.0,) * 9, buckets=buckets, rate_schedule={})


def test_the_check_of_lengths_passes_over_bad_records_where_training_does():
    with pytest.raises(ValueError, match="image of number 3"):
        check_lengths(BROKEN, LENGTHS, split="train", seed=0)
    check_lengths(BROKEN, LENGTHS, split="train", seed=0, skip_bad=True)
    with pytest.raises(ValueError, match=r"too short .*'broken'"):
        check_lengths(BROKEN, LENGTHS | {"targets": 1}, split="train", seed=0, skip_bad=True)


def test_values_by_family_variant_and_name():
    found = lookup("scenes_vqa") + lookup("scenes_vqa_apart") + lookup("scenes_captioning_apart")
    two_families = [task for task, _ in found]
    values = {"vqa": 0.0, "vqa_apart": 1.0, "captioning": 2.0, "scenes_captioning_apart": 3.0}
    assert by_task(values, two_families, "setting") == {
        "scenes_vqa": 0.0,
        "scenes_vqa_apart": 1.0,
        "scenes_captioning_apart": 3.0,
    }
    patterns = {"vqa": 4.0, "*": 0.0, "*_apart": 1.0, "cap*": 2.0, "scenes_vqa": 5.0}
    assert by_task(patterns, two_families, "setting") == {
        "scenes_vqa": 5.0,
        "scenes_vqa_apart": 4.0,
        "scenes_captioning_apart": 2.0,
    }
    # Another mixture may have them; none has the last two.
    assert by_task({"detection": 1.0, "detection_apart": 1.0}, two_families, "setting") == {}
    for name in ("vqa_aprt", "scenes_detection", "*_aprt"):
        with pytest.raises(ValueError, match=re.escape(f"the mixture has no task '{name}'")):
            by_task({name: 1.0}, two_families, "setting")

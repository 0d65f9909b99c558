"""Batches are a pure function of (mixture, seed, step), whoever computes them and from where."""

import collections
import dataclasses

import numpy as np
import pytest

from ofa_jax.data.batches import pipeline as pipeline_module
from ofa_jax.data.batches.pipeline import MixturePipeline, evaluation_row, fill_batch
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks import features
from ofa_jax.data.tasks.task import check_lengths
from ofa_jax.vocab import BOS_ID, EOS_ID
from tasks import instructions
from tests.data.batches.batch_values import assert_same, take
from tests.data.batches.numbered import LENGTHS, SIZE, Flicker, Numbered, make_task, small_tokenizer

CAPTIONS = make_task("captions", prepare=(Flicker(),))
MATCHES = make_task("matches", size=7, prepare=(Flicker(),))
TEXTS = make_task("texts", instructions.TEXT_INFILLING, size=5, loss_weight=2.0)


def pipeline(**options):
    settings = {
        "tasks": (CAPTIONS, MATCHES, TEXTS),
        "rates": (3.0, 2.0, 1.0),
        "lengths": LENGTHS,
        "batch_size": 8,
        "seed": 3,
        "prefetch": 4,
    }
    return MixturePipeline(**(settings | options))


def differs(batch, other):
    return any(not np.array_equal(batch[key], other[key]) for key in batch)


def test_batches_have_the_agreed_keys_shapes_and_dtypes():
    batch = pipeline().batch(0)
    b, s, t = 8, LENGTHS["inputs"], LENGTHS["targets"]
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "encoder_input_tokens": ("int32", (b, s)),
        "encoder_images": ("uint8", (b, SIZE, SIZE, 3)),
        "encoder_image_masks": ("bool", (b,)),
        "encoder_image_holes": ("int32", (b, 4)),
        "decoder_input_tokens": ("int32", (b, t)),
        "decoder_target_tokens": ("int32", (b, t)),
        "decoder_loss_weights": ("float32", (b, t)),
        "decoder_code_masks": ("bool", (b,)),
        "task_ids": ("int32", (b,)),
    }
    assert (batch["decoder_input_tokens"][:, 0] == BOS_ID).all()
    # Decoder input and target are one sequence, shifted.
    targets, inputs = batch["decoder_target_tokens"], batch["decoder_input_tokens"]
    for row in range(b):
        length = int((targets[row] == EOS_ID).argmax())
        np.testing.assert_array_equal(inputs[row, 1 : length + 1], targets[row, :length])
        expected = 2.0 if batch["task_ids"][row] == 2 else 1.0
        np.testing.assert_array_equal(batch["decoder_loss_weights"][row, : length + 1], expected)
        assert not batch["decoder_loss_weights"][row, length + 1 :].any()
        assert not targets[row, length + 1 :].any()


def test_random_access_equals_iteration_and_resuming_anywhere():
    batches = take(pipeline(), 9)
    for step, batch in enumerate(batches):
        assert_same(pipeline().batch(step), batch)
    for start in (1, 4, 8):
        resumed = take(pipeline(num_threads=2), 9 - start, start)
        for step, batch in enumerate(resumed, start):
            assert_same(batch, batches[step])


def test_all_hosts_together_see_the_same_global_batch():
    for step in (0, 5):
        whole = pipeline().batch(step)
        for hosts in (2, 4):
            parts = [pipeline(num_hosts=hosts, host=host).batch(step) for host in range(hosts)]
            for key, value in whole.items():
                # Host h reads rows h, h + hosts, h + 2 hosts, ...
                joined = np.stack([part[key] for part in parts], axis=1)
                np.testing.assert_array_equal(joined.reshape(value.shape), value, err_msg=key)
    resumed = take(pipeline(num_hosts=2, host=1), 2, start=5)
    assert_same(resumed[0], pipeline(num_hosts=2, host=1).batch(5))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(workers):
    expected = [pipeline().batch(step) for step in range(2, 7)]
    for batch, other in zip(take(pipeline(num_workers=workers), 5, start=2), expected):
        assert_same(batch, other)


def test_another_seed_gives_another_order_and_other_draws():
    first, second = pipeline(seed=3), pipeline(seed=4)
    assert differs(first.batch(0), second.batch(0))
    one = make_task("one", size=1, prepare=(Flicker(),))
    corners = {
        int(
            pipeline(tasks=(one,), rates=(1,), seed=seed, batch_size=1).batch(0)["encoder_images"][
                0, 0, 0, 0
            ]
        )
        for seed in range(20)
    }
    assert len(corners) > 10


def test_every_epoch_shows_every_record_once_in_another_order_with_other_draws():
    epochs = pipeline(tasks=(CAPTIONS,), rates=(1.0,), batch_size=10)
    orders, corners = [], []
    for epoch in range(3):
        images = epochs.batch(epoch)["encoder_images"]
        orders.append(images[:, 1, 1, 0].tolist())
        assert sorted(orders[-1]) == list(range(10))
        corners.append({row[1, 1, 0]: int(row[0, 0, 0]) for row in images})
    assert orders[0] != orders[1] != orders[2]
    assert corners[0] != corners[1]


@pytest.mark.parametrize("size", [1, 4096, 4097])
def test_sets_are_shuffled_whole_by_a_table_or_by_a_formula(size):
    epochs = [
        [pipeline_module._record_number(size, 3, size * epoch + place) for place in range(size)]
        for epoch in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(size))
    assert (epochs[0] != epochs[1]) == (size > 1)
    assert pipeline_module._record_number(size, 3, size) == epochs[1][0], "each place alone"


def test_rates_hold_exactly_over_a_long_window():
    mixture = pipeline(batch_size=6)
    counts = collections.Counter()
    for step in range(20):
        batch = mixture.batch(step)
        # 3 : 2 : 1 in every batch of six, not only on average.
        assert np.bincount(batch["task_ids"], minlength=3).tolist() == [3, 2, 1]
        counts.update(batch["task_ids"].tolist())
    assert counts == {0: 60, 1: 40, 2: 20}
    odd = pipeline(rates=(0.35, 0.6, 0.05), batch_size=100)
    assert np.bincount(odd.batch(3)["task_ids"], minlength=3).tolist() == [35, 60, 5]


def test_bad_pipelines_are_refused():
    with pytest.raises(ValueError, match=r"batch_size = 8 .* 3 hosts"):
        pipeline(num_hosts=3)
    with pytest.raises(ValueError, match="positive rate"):
        pipeline(rates=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="positive rate"):
        pipeline(rates=(1.0, 1.0))
    empty = make_task("empty", size=0)
    with pytest.raises(ValueError, match=r"'empty' .*no train"):
        pipeline(tasks=(empty,), rates=(1.0,)).batch(0)


def test_a_record_that_does_not_fit_names_task_and_record():
    broken = make_task("broken", instructions.VQA)
    with pytest.raises(InstructionError, match=r"task 'broken', record \d: .*no field 'question'"):
        pipeline(tasks=(broken,), rates=(1.0,)).batch(0)


@dataclasses.dataclass(frozen=True)
class NeedsObjects:
    def __call__(self, example, rng):
        return {**example, "caption": example["objects"][0]}


def test_a_step_without_its_field_names_the_field():
    broken = make_task("broken", prepare=(NeedsObjects(),))
    with pytest.raises(InstructionError, match=r"task 'broken', record 0: .*no field 'objects'"):
        broken.read(Numbered().open("train"), 0, LENGTHS, seed=0)


# Single tasks and rows.


def test_reading_is_a_function_of_seed_epoch_and_index():
    records = Numbered().open("train")

    def corner(task=CAPTIONS, index=1, **options):
        return int(task.read(records, index, LENGTHS, **({"seed": 0} | options))["image"][0, 0, 0])

    assert corner() == corner()
    others = [corner(seed=1), corner(epoch=1), corner(index=2)]
    others.append(corner(dataclasses.replace(CAPTIONS, name="renamed")))
    assert others.count(corner()) <= 1, others


def test_confidence_and_skipped_prefix_weigh_the_target():
    example = {"image": np.zeros((SIZE, SIZE, 3), np.uint8), "caption": "a dog on an image"}
    task = make_task("weighed", loss_weight=2.0)

    def weights(**fields):
        rng = np.random.default_rng(0)
        return task.features({**example, **fields}, rng, LENGTHS, train=True)["loss_weights"]

    assert weights().dtype == np.float32
    assert set(weights().tolist()) == {2.0}
    assert set(weights(confidence=0.25).tolist()) == {0.5}
    skipped = weights(loss_skip_prefix=2).tolist()
    assert skipped == [0.0, 0.0] + [2.0] * (len(skipped) - 2)
    # SPEC 4.3.1: eos is trained even where the prefix covers it.
    assert weights(caption="", loss_skip_prefix=2).tolist()[-1] == 2.0


def test_wordings_are_drawn_in_training_and_fixed_in_evaluation():
    lines = [instructions.CAPTIONING, "[IMAGE:image] caption: -> [TEXT:caption]"]
    task = make_task("worded", lines)
    records = Numbered().open("train")

    def sources(train):
        return {
            tuple(task.read(records, 0, LENGTHS, seed=seed, train=train)["inputs"].tolist())
            for seed in range(20)
        }

    assert len(sources(True)) == 2
    assert len(sources(False)) == 1


def test_wordings_of_different_modalities_are_refused():
    with pytest.raises(ValueError, match=r"task 'mixed': .*one modality"):
        make_task("mixed", [instructions.CAPTIONING, instructions.VISUAL_GROUNDING])
    with pytest.raises(ValueError, match=r"'none' .*instruction"):
        make_task("none", [])


def test_long_sequences_keep_eos_in_the_source_and_lose_it_in_the_target():
    task = make_task("long", instructions.VQA)
    example = {
        "image": np.zeros((SIZE, SIZE, 3), np.uint8),
        "question": "image " * 50,
        "answer": "dog " * 50,
    }
    row = features.pad_row(
        task.features(example, np.random.default_rng(0), LENGTHS, train=True), LENGTHS, 4
    )
    assert row["encoder_input_tokens"][0] == BOS_ID
    assert row["encoder_input_tokens"][-1] == EOS_ID
    assert EOS_ID not in row["decoder_target_tokens"]
    assert (row["decoder_loss_weights"] == 1.0).all()
    assert row["task_ids"] == 4


def test_empty_rows_have_the_same_shapes_and_count_nowhere():
    batch = pipeline().batch(0)
    empty = features.empty_row(LENGTHS)
    assert {key: (value.dtype, value.shape) for key, value in empty.items()} == {
        key: (value.dtype, value.shape[1:]) for key, value in batch.items()
    }
    assert not empty["decoder_loss_weights"].any()
    assert not empty["encoder_image_masks"]


def test_texts_use_all_the_room_there_is_and_the_truth_is_what_fits():
    text = Numbered().open("train")[0]["text"]
    clean = small_tokenizer().encode_text(" " + text)
    frame = 2 + len(small_tokenizer().encode_text(' what is the complete text of "'))
    frame += len(small_tokenizer().encode_text(' "?'))

    def rows(room):
        lengths = LENGTHS | {"inputs": frame + room, "targets": 30}
        example, row = evaluation_row(TEXTS, TEXTS.source.open("train"), 0, lengths, seed=0)
        kept = row["decoder_target_tokens"]
        return example["text"], kept[: int((kept == EOS_ID).argmax())].tolist()

    assert rows(len(clean)) == (text, clean)
    shorter, ids = rows(len(clean) - 3)
    assert ids == clean[3:]
    assert shorter == small_tokenizer().decode(ids).strip() != text


def test_evaluation_has_its_own_preparation_and_fills_a_batch():
    task = dataclasses.replace(CAPTIONS, eval_prepare=())
    records = task.source.open("validation")
    found = [evaluation_row(task, records, index, LENGTHS, seed=0) for index in range(4)]
    assert found[2][0]["image_id"] == "validation-2"
    assert found[2][1]["encoder_images"][0, 0, 0] == 2, "evaluation has its own preparation"
    batch = fill_batch([row for _, row in found[:3]], 5)
    assert batch["encoder_images"][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("line", "lengths", "message"),
    [
        (instructions.CAPTIONING, {"targets": 1}, r"task_feature_lengths\['targets'\] = 1 is too"),
        (instructions.CAPTIONING, {"inputs": 3}, r"task_feature_lengths\['inputs'\] = 3 is too"),
        (instructions.TEXT_INFILLING, {"inputs": 12}, r"task_feature_lengths\['inputs'\] = 12"),
        (instructions.TEXT_INFILLING, {"targets": 1}, r"task_feature_lengths\['targets'\] = 1"),
    ],
)
def test_lengths_that_are_too_short_are_named(line, lengths, message):
    task = make_task("short", line)
    with pytest.raises(ValueError, match=message) as error:
        check_lengths(task, LENGTHS | lengths, split="train", seed=0)
    assert "task 'short'" in str(error.value)
    check_lengths(task, LENGTHS, split="train", seed=0)

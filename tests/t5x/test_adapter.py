"""The pieces that t5x is given, one by one: batches, variables, placement, decoding, scores."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.t5x.checkout import MISSING, requires_t5x

pytestmark = requires_t5x

if not MISSING:
    import jax
    import jax.numpy as jnp
    import seqio
    import tensorflow as tf
    from flax import linen as nn
    from flax import traverse_util
    from t5x import train_state as train_state_lib
    from t5x import utils

    import mixtures.scenes  # noqa: F401  (registers the tasks)
    from ofa_jax.data.tasks.features import pad_row
    from ofa_jax.decoding.beam import BeamConfig
    from ofa_jax.decoding.rules import step_scores
    from ofa_jax.evaluation.run_evaluation import EvaluationConfig
    from ofa_jax.runs.settings import DatasetConfig, PartitionerConfig, TrainerConfig
    from ofa_jax.sharding.placement import state_shardings
    from ofa_jax.t5x import evaluation, inputs, models, partitioning
    from ofa_jax.t5x.decoding import CodesInCodeRows
    from ofa_jax.t5x.features import OFAFeatureConverter, model_inputs
    from ofa_jax.training.ema import EMAConfig
    from ofa_jax.training.optimizer import OptimizerConfig
    from ofa_jax.training.schedule import ScheduleConfig
    from ofa_jax.training.scst import SCSTConfig
    from ofa_jax.training.state import from_checkpoint_tree, to_checkpoint_tree

MIXTURE = "scenes_without_image_infilling"
LENGTHS = {"inputs": 30, "targets": 20, "image": 32}


# What the model reads, in other shapes than `OFAModel` initializes with.
BATCH = {
    "encoder_input_tokens": np.ones((2, 5), np.int32),
    "encoder_images": np.zeros((2, 32, 32, 3), np.uint8),
    "decoder_input_tokens": np.ones((2, 4), np.int32),
    "decoder_code_masks": np.zeros((2,), bool),
}


def dataset_config(**changes):
    settings = {
        "mixture_or_task_name": MIXTURE,
        "task_feature_lengths": LENGTHS,
        "batch_size": 4,
    }
    return DatasetConfig(**{**settings, **changes})


def build_model(**changes):
    return models.OFAModel(
        model=models.OFA(size="nano", encoder_layers=1, decoder_layers=1),
        dataset=dataset_config(),
        optimizer=OptimizerConfig(ScheduleConfig(peak=1e-3, shape="constant"), **changes),
        random_seed=3,
    )


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(lambda key: model.get_initial_variables(key, {}))(jax.random.key(99))


def test_seqio_rows_equal_those_of_the_native_input():
    task = seqio.get_mixture_or_task("scenes_visual_grounding")
    dataset = task.get_dataset(LENGTHS, "validation", shuffle=False, seed=5)
    converter = OFAFeatureConverter()
    examples = list(dataset.take(3).as_numpy_iterator())
    converted = converter(dataset.take(3), LENGTHS)
    assert all(None not in spec.shape for spec in converted.element_spec.values())
    for example, row in zip(examples, converted.as_numpy_iterator(), strict=True):
        expected = pad_row(example, LENGTHS, 0)
        assert set(row) == set(expected) - {"task_ids"}
        batch = model_inputs({key: value[None] for key, value in row.items()})
        for key, value in batch.items():
            np.testing.assert_array_equal(value[0], expected[key], err_msg=key)
            assert value.dtype == expected[key].dtype, key


def test_packing_is_refused():
    with pytest.raises(ValueError, match=r"utils\.DatasetConfig\.pack: .*images"):
        OFAFeatureConverter(pack=True)


def test_data_of_others_is_refused_in_one_line():
    features = dict.fromkeys(("inputs", "targets"), tf.constant([4, 2]))
    with pytest.raises(ValueError, match=r"add_mixture") as error:
        OFAFeatureConverter()(tf.data.Dataset.from_tensors(features), LENGTHS)
    assert "\n" not in str(error.value)


def test_the_evaluator_of_seqio_scores_what_the_model_reads():
    evaluator = seqio.Evaluator(
        mixture_or_task_name="scenes_vqa",
        feature_converter=OFAFeatureConverter(),
        eval_split="validation",
        num_examples=4,
        sequence_length=LENGTHS,
    )

    assert evaluator.model_feature_shapes["encoder_images"] == (32, 32, 3)

    def predict(dataset, model_feature_shapes=None):
        return [(n, row["decoder_target_tokens"]) for n, row in dataset.as_numpy_iterator()]

    future, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, score_fn=None, step=0)
    assert future.result()["scenes_vqa"]["accuracy"] == 1.0


def test_grain_iterator_gives_the_native_batches_from_any_step(tmp_path):
    cfg = utils.DatasetConfig(
        mixture_or_task_name=MIXTURE,
        task_feature_lengths=LENGTHS,
        split="train",
        batch_size=4,
        shuffle=True,
        seed=0,
    )
    settings = dataset_config(rates={"vqa": 0.0})
    iterator = inputs.grain_dataset(
        cfg, 0, 1, OFAFeatureConverter, dataset=settings, model_dir=str(tmp_path)
    )
    batches = [next(iterator) for _ in range(3)]
    assert {key: (x.shape, x.dtype) for key, x in batches[0].items()} == {
        key: (spec.shape, spec.dtype) for key, spec in iterator.element_spec.items()
    }
    iterator.save(str(tmp_path / "train_ds"))
    following = next(iterator)
    iterator.reset()
    np.testing.assert_array_equal(next(iterator)["encoder_images"], batches[0]["encoder_images"])
    iterator.restore(str(tmp_path / "train_ds"))
    np.testing.assert_array_equal(next(iterator)["encoder_images"], following["encoder_images"])


def test_position_of_the_input_is_the_newest_checkpoint(tmp_path):
    assert inputs.start_step(str(tmp_path / "nothing")) == 0
    assert inputs.start_step(str(tmp_path)) == 0
    for name in ("checkpoint_5", "checkpoint_20", "checkpoint_30.orbax-checkpoint-tmp"):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "checkpoint").touch()
    assert inputs.start_step(str(tmp_path)) == 20


def test_initial_variables_are_the_native_ones(model, variables):
    create = model.training_engine.creation(BATCH)
    native = nn.unbox(jax.jit(create)(jax.random.key(3)))
    for name, tree in (("params", native.params), ("batch_stats", native.batch_stats)):
        ours = traverse_util.flatten_dict(variables[name].unfreeze())
        theirs = traverse_util.flatten_dict(tree)
        assert ours.keys() == theirs.keys()
        for path, value in theirs.items():
            np.testing.assert_array_equal(ours[path], value, err_msg="/".join(path))


def test_state_crosses_over_in_both_directions(model, variables):
    upstream = train_state_lib.FlaxOptimTrainState.create(model.optimizer_def, variables)
    template = nn.unbox(model.abstract_state())
    native = from_checkpoint_tree(upstream.state_dict(), template)
    assert jax.tree.structure(native) == jax.tree.structure(template)
    changed = dataclasses.replace(native, step=jnp.int32(7))
    back = upstream.restore_state(to_checkpoint_tree(changed))
    assert int(back.step) == 7
    assert jax.tree.structure(back) == jax.tree.structure(upstream)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # States that t5x has no partition rules for, and parameters without any.
        {"frozen": ("token_embedding",), "no_decay": ("bias",), "muon": ("layers_.*kernel",)},
    ],
    ids=["adam", "frozen, muon"],
)
def test_every_array_goes_where_the_native_runner_puts_it(variables, changes):
    model = build_model(**changes)
    partitioner = partitioning.MeshPartitioner(
        PartitionerConfig(mesh="data=1", rules="fsdp_tensor")
    )
    upstream = jax.eval_shape(
        lambda: train_state_lib.FlaxOptimTrainState.create(model.optimizer_def, variables)
    )
    axes = partitioner.get_mesh_axes(upstream).state_dict()
    native = state_shardings(
        model.abstract_state(), partitioner.mesh, partitioner.logical_axis_rules
    )
    expected = traverse_util.flatten_dict(to_checkpoint_tree(native))
    placed = traverse_util.flatten_dict(axes)
    assert placed.keys() == expected.keys()
    for path, spec in placed.items():
        spec = jax.sharding.PartitionSpec() if spec is None else spec
        assert spec == expected[path].spec, path


def test_layout_of_the_data(model):
    partitioner = partitioning.MeshPartitioner(PartitionerConfig())
    assert partitioner.data_partition_spec == jax.sharding.PartitionSpec(("replica", "data"))
    layout = partitioner.get_data_layout(4)
    assert (layout.batch_size, layout.shard_id, layout.num_shards) == (4, 0, 1)


def test_buckets_are_refused():
    settings = dataset_config(buckets={"text_infilling": {"image": 0}})
    cfg = utils.DatasetConfig(MIXTURE, LENGTHS, "train", 4, True, 0)
    with pytest.raises(ValueError, match=r"buckets: .*one step"):
        inputs.grain_dataset(cfg, 0, 1, None, dataset=settings, model_dir="nowhere")


def test_what_t5x_has_no_place_for_is_refused():
    settings = {"model": models.OFA(size="nano"), "dataset": dataset_config()}
    with pytest.raises(ValueError, match="holds no moving average"):
        models.OFAModel(**settings, trainer=TrainerConfig(ema=EMAConfig(0.99)))
    with pytest.raises(
        ValueError,
        match=r"samples .*compiled step",
    ):
        models.OFAModel(**settings, trainer=TrainerConfig(scst=SCSTConfig()))
    with pytest.raises(ValueError, match=r"mixture_or_task_name: .*'scene"):
        models.OFAModel(model=models.OFA(), dataset=dataset_config(mixture_or_task_name="scene"))


def test_loss_and_score_agree(model, variables):
    # Without the tasks whose tokens count double.
    settings = dataset_config(rates={"text_infilling": 0.0, "detection": 0.0})
    cfg = utils.DatasetConfig(MIXTURE, LENGTHS, "train", 4, True, 0)
    batch = next(
        inputs.grain_dataset(cfg, 0, 1, OFAFeatureConverter, dataset=settings, model_dir="nowhere")
    )
    mutables = {"batch_stats": variables["batch_stats"]}
    loss, metrics = model.eval_fn(variables["params"], batch, mutables)
    scores = model.score_batch(variables["params"], batch, flax_mutables=mutables)
    tokens = batch["decoder_loss_weights"].sum()
    assert scores.shape == (4,)
    np.testing.assert_allclose(-scores.sum() / tokens, loss, rtol=1e-5)
    assert float(metrics["loss"].compute()) == pytest.approx(float(loss))
    assert {name for name in metrics if name.startswith("loss/")} == {
        f"loss/{name}" for name in model.tasks.names
    }


def test_code_rows_get_codes_and_then_the_end():
    constraint = CodesInCodeRows(jnp.array([True, False]), code_range=(6, 9), num_codes=2)
    state = constraint.init_state(2, 1)
    logits = jnp.zeros((2, 1, 12))
    allowed = []
    for step in range(3):
        scores, _ = step_scores(
            logits,
            BeamConfig(beam=1, min_len=0),
            step=jnp.full(2, step, jnp.int32),
            max_length=5,
            history=jnp.zeros((2, 1, 6), jnp.int32),
            constraint=constraint,
            constraint_state=state,
        )
        allowed.append([np.flatnonzero(np.isfinite(row)).tolist() for row in scores[:, 0]])
        state = constraint.advance(state, jnp.zeros((2, 1), jnp.int32))
    everything = [*range(1, 12)]
    assert allowed == [[[6, 7, 8], everything], [[6, 7, 8], everything], [[2], everything]]


def build_evaluator(model, directory, **changes):
    return evaluation.Evaluator(
        MIXTURE,
        OFAFeatureConverter(),
        "validation",
        use_cached=False,
        seed=0,
        sequence_length=LENGTHS,
        use_memory_cache=False,
        log_dir=str(directory),
        model=model,
        settings=EvaluationConfig(num_examples=6, batch_size=4, **changes),
    )


def test_evaluator_takes_the_weights_of_the_state_and_writes_scores(
    model, variables, tmp_path, monkeypatch
):
    seen = []

    def scores(self, variables):
        seen.append(variables)
        return {"eval/vqa/accuracy": 0.5, "eval/vqa/accuracy/kind": 0.25, "eval/detection/f1": 1.0}

    monkeypatch.setattr(evaluation.RunEvaluation, "during_training", scores)
    state = train_state_lib.InferenceState.create(variables)
    predict = functools.partial(print, train_state=state)
    judge = build_evaluator(model, tmp_path)
    future, _ = judge.evaluate(compute_metrics=True, predict_fn=predict, step=5)
    judge.close()
    assert len(judge.eval_tasks) == 7
    assert future.result() == {
        "vqa": {"accuracy": 0.5, "accuracy/kind": 0.25},
        "detection": {"f1": 1.0},
    }
    [taken] = seen
    assert jax.tree.structure(taken["params"]) == jax.tree.structure(variables["params"].unfreeze())
    stats = variables["batch_stats"].unfreeze()
    assert jax.tree.structure(taken["batch_stats"]) == jax.tree.structure(stats)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["eval/vqa/accuracy"]) == (5, 0.5)
    assert list(tmp_path.glob("events*"))
    future, _ = judge.evaluate(compute_metrics=False, predict_fn=predict, step=5)
    assert future.result() is None


def test_evaluator_names_a_split_that_is_missing(model, tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        build_evaluator(model, tmp_path, split="nonsense")

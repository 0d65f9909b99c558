"""The compiled steps: gradients, accumulation, normalization, metrics, EMA, reproducibility."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.losses.cross_entropy import LossConfig, token_losses
from ofa_jax.training.ema import EMAConfig, update_ema
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer, global_norm
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState, from_checkpoint_tree, to_checkpoint_tree
from ofa_jax.training.step import TaskSums, make_eval_step, make_train_step
from tests.training.standin import VOCAB_SIZE, StandIn, make_batch

RNG = jax.random.key(0)
PLAIN = StandIn(use_batch_norm=False)
OPTIMIZER = OptimizerConfig(ScheduleConfig(peak=0.01, total_steps=50, warmup_steps=2))


@functools.cache
def compiled(model, loss, optimizer, ema, options):
    """Compiling is what these tests spend; settings that return are compiled once."""
    tx, schedule = build_optimizer(optimizer)
    create = jax.jit(
        lambda rng: nn.meta.unbox(
            TrainState.create(model, tx, rng, make_batch(), ema=ema is not None)
        )
    )
    step = make_train_step(
        model, tx, schedule, loss, vocab_size=VOCAB_SIZE, num_tasks=2, ema=ema, **dict(options)
    )
    return create, step


def setup(model=PLAIN, loss=LossConfig(), optimizer=OPTIMIZER, ema=None, **options):
    create, step = compiled(model, loss, optimizer, ema, tuple(options.items()))
    return create(RNG), step


def run(state, step, batches):
    history = []
    for batch in batches:
        state, metrics = step(state, batch, RNG)
        history.append(jax.device_get(metrics))
    return state, history


def assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def test_metrics_of_one_step():
    batch = make_batch()
    state, step = setup()
    losses = token_losses(
        PLAIN.apply({"params": state.params}, batch),
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        LossConfig(),
        vocab_size=VOCAB_SIZE,
    )
    norm = global_norm(state.params)
    state, (metrics,) = run(state, step, [batch])
    tokens = (batch["decoder_loss_weights"] > 0).sum()
    assert state.step == 1
    assert metrics["tokens"] == tokens
    assert metrics["examples"] == 8
    np.testing.assert_allclose(metrics["loss"], losses.loss_sum / tokens, rtol=1e-6)
    np.testing.assert_allclose(metrics["nll"], losses.nll_sum / tokens, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], losses.correct.sum() / tokens, rtol=1e-6)
    np.testing.assert_allclose(metrics["param_norm"], norm, rtol=1e-6)
    assert metrics["learning_rate"] == 0.0
    for task in (0, 1):
        mine = batch["task_ids"] == task
        np.testing.assert_allclose(
            metrics["task_loss_sum"][task], losses.example_loss[mine].sum(), rtol=1e-6
        )
        assert metrics["task_tokens"][task] == losses.example_tokens[mine].sum()
        assert metrics["task_correct"][task] == losses.example_correct[mine].sum()
        assert metrics["task_examples"][task] == 4


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(),
        LossConfig(normalization="group", task_groups=(0, 1)),
        LossConfig(normalization="examples"),
    ],
)
def test_microbatches_give_the_same_update(loss):
    """The divisor is that of the whole batch, although microbatches have unequal token counts."""
    batches = [make_batch(seed=seed) for seed in range(3)]
    whole = run(*setup(loss=loss), batches)
    parts = run(*setup(loss=loss, num_microbatches=4), batches)
    assert_trees_close(parts[0].params, whole[0].params, rtol=1e-4, atol=2e-6)
    for a, b in zip(parts[1], whole[1], strict=True):
        assert_trees_close(a, b, rtol=2e-4, atol=1e-6)


def test_group_normalization_adds_the_means_of_groups():
    batch = make_batch()
    _, (metrics,) = run(*setup(loss=LossConfig(normalization="group", task_groups=(0, 1))), [batch])
    means = metrics["task_loss_sum"] / metrics["task_tokens"]
    np.testing.assert_allclose(metrics["loss"], means.sum(), rtol=1e-6)
    one_group = LossConfig(normalization="group", task_groups=(1, 1))
    assert_trees_close(
        run(*setup(loss=one_group), [batch])[1], run(*setup(), [batch])[1], rtol=1e-5
    )


def test_statistics_pass_through_accumulation():
    """Two microbatches move the running mean twice, each by its own mean."""
    model, batch = StandIn(), make_batch()
    state, step = setup(model=model, num_microbatches=2)
    params = jax.device_get(state.params)
    expected = jax.device_get(state.batch_stats)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        _, updated = model.apply(
            {"params": params, "batch_stats": expected},
            {name: value[half] for name, value in batch.items()},
            train=True,
            mutable=["batch_stats"],
        )
        expected = updated["batch_stats"]
    state, _ = run(state, step, [batch])
    assert_trees_close(state.batch_stats, expected, rtol=1e-5, atol=1e-7)


def test_padding_examples_change_nothing():
    batch = make_batch()
    padded = {name: np.concatenate([x, x]) for name, x in batch.items()}
    padded["decoder_loss_weights"][8:] = 0
    state, (metrics,) = run(*setup(), [batch])
    padded_state, (padded_metrics,) = run(*setup(), [padded])
    assert_trees_close(padded_metrics, metrics, rtol=1e-5)
    assert_trees_close(padded_state.opt_state, state.opt_state, rtol=1e-4, atol=1e-7)


def test_empty_batch_is_finite():
    batch = make_batch()
    batch["decoder_loss_weights"][:] = 0
    state, (metrics,) = run(*setup(), [batch])
    assert metrics["loss"] == metrics["gradient_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_frozen_parameters_are_not_in_the_gradient_norm():
    frozen = ("^embedding$",)
    optimizer = OptimizerConfig(OPTIMIZER.schedule, frozen=frozen)
    state, step = setup(optimizer=optimizer, frozen=frozen)
    before = jax.device_get(state.params)
    norm_of_all = run(*setup(), [make_batch()])[1][0]["gradient_norm"]
    state, history = run(state, step, [make_batch()] * 3)
    assert 0 < history[0]["gradient_norm"] < norm_of_all
    np.testing.assert_array_equal(state.params["embedding"], before["embedding"])
    assert not np.allclose(state.params["kernel"], before["kernel"])


def test_rdrop_runs_every_example_twice():
    model = StandIn(use_batch_norm=False, dropout=0.3)
    plain = run(*setup(), [make_batch()])[1][0]
    metrics = run(*setup(model=model, loss=LossConfig(rdrop_alpha=1.0)), [make_batch()])[1][0]
    assert metrics["tokens"] == 2 * plain["tokens"]
    assert metrics["loss"] > metrics["nll"]


def test_random_keys_depend_on_step_and_base_key_only():
    model, batch = StandIn(use_batch_norm=False, dropout=0.5), make_batch()
    state, step = setup(model=model, donate=False)
    first = step(state, batch, RNG)[1]["loss"]
    assert first == step(state, batch, RNG)[1]["loss"]
    assert first != step(state, batch, jax.random.key(1))[1]["loss"]
    assert first != step(state.replace(step=state.step + 1), batch, RNG)[1]["loss"]


def test_ema_averages_parameters_and_statistics():
    config = EMAConfig(decay=0.5, start_step=2)
    state, step = setup(model=StandIn(), ema=config, donate=False)
    assert_trees_close(state.ema["params"], state.params)
    one, _ = step(state, make_batch(), RNG)
    assert_trees_close(one.ema["batch_stats"], one.batch_stats)
    two, _ = step(one, make_batch(seed=1), RNG)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, one.params, two.params)
    assert_trees_close(two.ema["params"], expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(two.ema["batch_stats"]["norm"]["mean"], two.batch_stats["norm"]["mean"])


def test_ema_copies_integers():
    ema = {"params": {"n": jnp.int32(1)}, "batch_stats": {}}
    new = update_ema(ema, {"n": jnp.int32(5)}, {}, 10, EMAConfig())
    assert new["params"]["n"] == 5


def test_ema_of_what_never_changes_is_that_to_the_bit():
    """Frozen weights: files of trained parts name the base model by a digest of them."""
    weights = {"w": jax.random.normal(RNG, (1000,))}
    first = {"params": weights, "batch_stats": {}}
    average = jax.jit(lambda ema, step: update_ema(ema, weights, {}, step, EMAConfig(start_step=3)))
    ema = first
    for step in (1, 5, 6):
        ema = average(ema, step)
    np.testing.assert_array_equal(ema["params"]["w"], weights["w"])


def test_eval_step_reads_the_average_and_adds_up():
    batch = make_batch()
    state, step = setup(model=StandIn(), ema=EMAConfig(decay=0.99))
    state, _ = run(state, step, [batch] * 4)
    model, loss = StandIn(), LossConfig(label_smoothing=0.1, drop_worst_ratio=0.5)
    evaluate = make_eval_step(model, loss, vocab_size=VOCAB_SIZE, num_tasks=2)
    raw = make_eval_step(model, loss, vocab_size=VOCAB_SIZE, num_tasks=2, use_ema=False)
    sums = evaluate(state, batch)
    assert sums.tokens.sum() == (batch["decoder_loss_weights"] > 0).sum()
    assert not np.allclose(sums.loss, raw(state, batch).loss)
    halves = [
        evaluate(state, {name: value[part] for name, value in batch.items()})
        for part in (slice(0, 4), slice(4, 8))
    ]
    assert_trees_close(halves[0] + halves[1], sums, rtol=1e-5)
    metrics = sums.metrics()
    np.testing.assert_allclose(metrics["nll"], sums.nll.sum() / sums.tokens.sum(), rtol=1e-6)
    assert TaskSums.zeros(2).metrics()["nll"] == 0


@pytest.mark.parametrize("with_ema", [False, True])
def test_checkpoint_tree_round_trip(with_ema):
    frozen = ("^kernel$",)
    state, step = setup(
        model=StandIn(),
        optimizer=OptimizerConfig(OPTIMIZER.schedule, frozen=frozen),
        ema=EMAConfig() if with_ema else None,
    )
    state, _ = run(state, step, [make_batch()])
    tree = to_checkpoint_tree(state)
    assert set(tree) == {"target", "state", "flax_mutables"} | ({"ema"} if with_ema else set())
    assert set(tree["state"]) == {"step", "param_states"}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    assert all(isinstance(k, jax.tree_util.DictKey) for path, _ in leaves for k in path)
    assert len(leaves) == len(jax.tree.leaves(state))
    back = from_checkpoint_tree(tree, jax.eval_shape(lambda: state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert_trees_close(back, state)


def test_average_starts_from_weights_that_have_none():
    state, _ = setup(model=StandIn(), ema=EMAConfig())
    tree = to_checkpoint_tree(state.replace(ema=None))
    back = from_checkpoint_tree(tree, state)
    assert_trees_close(back.ema["params"], state.params)


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match=r"num_microbatches .*1, got 0"):
        setup(num_microbatches=0)
    state, step = setup(num_microbatches=3)
    with pytest.raises(ValueError, match=r"8 examples .*3"):
        step(state, make_batch(), RNG)
    with pytest.raises(ValueError, match="1 tasks, but there are 2"):
        setup(loss=LossConfig(normalization="group", task_groups=(0,)))
    with pytest.raises(ValueError, match="decay"):
        EMAConfig(decay=1.0)
    with pytest.raises(ValueError, match="start_step"):
        EMAConfig(start_step=-1)

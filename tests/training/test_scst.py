"""Self-critical steps: the loss of sampled sequences, the reward's way, and what they learn."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.scst import make_scst_step, scst_forward
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step
from ofa_jax.vocab import BOS_ID, EOS_ID

VOCAB, PADDED = 12, 16
RNG = jax.random.key(0)


@flax.struct.dataclass
class Encoded:
    states: jax.Array
    positions: jax.Array  # one row for all examples, as in the model


class Captioner(nn.Module):
    """Logits from the previous token and the mean of the source."""

    def setup(self):
        self.table = self.param("table", nn.initializers.normal(0.3), (PADDED, 8))

    def __call__(self, batch, *, train=False):
        return self.decode(self.encode(batch, train=train), batch["decoder_input_tokens"])

    def encode(self, batch, *, train=False):
        tokens = batch["encoder_input_tokens"]
        return Encoded(self.table[tokens].mean(1), jnp.ones((1, 8)))

    def decode(self, encoded, inputs, codes=None, *, train=False):
        x = self.table[inputs] + encoded.states[:, None] * encoded.positions[:, None]
        return jnp.where(jnp.arange(PADDED) < VOCAB, x @ self.table.T, -1e9)


MODEL = Captioner()
BATCH = {
    "encoder_input_tokens": np.array([[4, 5], [6, 7], [8, 9], [4, 9]], np.int32),
    "decoder_input_tokens": np.full((4, 3), BOS_ID, np.int32),
    "decoder_target_tokens": np.array([[4, EOS_ID, 0]] * 4, np.int32),
    "decoder_loss_weights": np.ones((4, 3), np.float32),
    "task_ids": np.zeros(4, np.int32),
}
# Two samples per example: one says 10, the other 11, of different lengths.
SAMPLES = np.array([[[10, EOS_ID, 0], [11, 11, EOS_ID]]] * 4, np.int32)


def start(**options):
    tx, schedule = build_optimizer(
        OptimizerConfig(ScheduleConfig(peak=0.05, shape="constant"), clip_norm=0.0)
    )
    state = TrainState.create(MODEL, tx, RNG, BATCH)
    update = make_train_step(
        MODEL,
        tx,
        schedule,
        LossConfig(),
        vocab_size=VOCAB,
        forward_losses=scst_forward(MODEL, VOCAB),
        donate=False,
        **options,
    )
    return state, update


def log_probabilities(params, samples):
    """float[b, g, t] of each sampled token, 0 on padding; by calling the model sample by sample."""
    found = np.zeros(samples.shape)
    for g in range(samples.shape[1]):
        inputs = np.pad(samples[:, g], ((0, 0), (1, 0)), constant_values=BOS_ID)[:, :-1]
        logits = MODEL.apply({"params": params}, {**BATCH, "decoder_input_tokens": inputs})
        table = np.asarray(jax.nn.log_softmax(logits[..., :VOCAB]))
        chosen = np.take_along_axis(table, samples[:, g][..., None], axis=-1)[..., 0]
        found[:, g] = np.where(samples[:, g] != 0, chosen, 0.0)
    return found


def rewards_of(samples, targets):
    """1 for every sample that says 11."""
    assert targets.shape == (4, 3)
    return (samples == 11).any(axis=2).astype(np.float32)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_loss_is_advantage_times_negative_log_probability(microbatches):
    state, update = start(num_microbatches=microbatches)
    step = make_scst_step(update, lambda variables, batch, key: jnp.asarray(SAMPLES), rewards_of)
    _, metrics = step(state, BATCH, RNG)
    advantages = np.array([-1.0, 1.0])  # against the other sample
    expected = -(advantages[:, None] * log_probabilities(state.params, SAMPLES)).sum()
    tokens = (SAMPLES != 0).sum()
    assert float(metrics["loss"]) == pytest.approx(expected / tokens, rel=1e-5)
    assert float(metrics["tokens"]) == tokens
    assert float(metrics["reward"]) == 0.5
    assert float(metrics["examples"]) == 4


def test_rewarded_samples_become_likelier():
    state, update = start()
    step = make_scst_step(update, lambda variables, batch, key: jnp.asarray(SAMPLES), rewards_of)
    before = log_probabilities(state.params, SAMPLES).sum(axis=(0, 2))
    for _ in range(10):
        state, _ = step(state, BATCH, RNG)
    after = log_probabilities(state.params, SAMPLES).sum(axis=(0, 2))
    assert after[1] > before[1] + 1.0
    assert after[0] < before[0]
    assert int(state.step) == 10


def test_samples_come_from_the_present_weights():
    state, update = start()
    seen = []

    def sample(variables, batch, key):
        seen.append(np.asarray(variables["params"]["table"]))
        return jnp.asarray(SAMPLES)

    step = make_scst_step(update, sample, rewards_of)
    for _ in range(2):
        state, _ = step(state, BATCH, RNG)
    assert not np.array_equal(seen[0], seen[1])


def test_one_sample_has_nothing_to_be_compared_with():
    state, update = start()
    step = make_scst_step(update, lambda *_: jnp.asarray(SAMPLES[:, :1]), rewards_of)
    with pytest.raises(ValueError, match="at least 2 samples"):
        step(state, BATCH, RNG)

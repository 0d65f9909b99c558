"""Before the first step the loss is that of a uniform guess over the vocabulary."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA

LENGTHS = {"inputs": 28, "targets": 20, "image": 32}


@pytest.fixture(scope="module")
def first_batch():
    found = lookup("scenes_pretrain")
    pipeline = MixturePipeline(
        tasks=tuple(task for task, _ in found),
        rates=tuple(rate for _, rate in found),
        lengths=LENGTHS,
        batch_size=16,
    )
    return [task for task, _ in found], pipeline.batch(0)


def nano(layout):
    """The configuration that a run would build for this vocabulary."""
    return dataclasses.replace(
        SIZES["nano"],
        vocab_size=layout.size,
        padded_vocab_size=layout.padded_size,
        num_codes=layout.num_codes,
    )


@pytest.mark.slow  # of batches of the mixture; tests/model/test_ofa.py has the same of random ids
def test_the_initial_loss_is_that_of_a_uniform_guess(first_batch):
    tasks, batch = first_batch
    layout = tasks[0].tokenizer().layout
    model = OFA(nano(layout))

    @jax.jit
    def forward(key):
        variables = nn.meta.unbox(model.init({"params": key}, batch))
        rngs = {"dropout": key, "patches": key}
        logits, _ = model.apply(variables, batch, train=True, mutable=["batch_stats"], rngs=rngs)
        return jax.nn.log_softmax(logits[..., : layout.size].astype(np.float32))

    targets, counted = batch["decoder_target_tokens"], batch["decoder_loss_weights"] > 0
    for seed in (0, 1):
        log_probabilities = np.asarray(forward(jax.random.key(seed)))
        nll = -np.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        assert nll[counted].mean() == pytest.approx(np.log(layout.size), rel=0.1)

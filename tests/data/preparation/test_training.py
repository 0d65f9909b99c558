"""What preparation keeps of a broken set can be trained on: one whole epoch without a NaN."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from ofa_jax.cli.prepare import run_prepare
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.losses.cross_entropy import LossConfig
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.training.optimizer import OptimizerConfig, build_optimizer
from ofa_jax.training.schedule import ScheduleConfig
from ofa_jax.training.state import TrainState
from ofa_jax.training.step import make_train_step
from tests.data.preparation import fault_set
from tests.data.preparation.small_vocabulary import LENGTHS, tokenizer

BATCH, RECORDS, BROKEN = 50, 2_000, 100


def tasks(directory):
    from tasks.families import FAMILIES

    sources = {
        "captioning": "caption",
        "vqa": "qa",
        "visual_grounding": "visual_grounding",
        "grounded_captioning": "visual_grounding",
    }
    return tuple(
        OFATask(
            name=name,
            family=FAMILIES[name].family,
            instructions=(Instruction.parse(FAMILIES[name].instruction),),
            source=PreparedSource(str(directory), (kind,)),
            tokenizer=tokenizer,
            prepare=FAMILIES[name].prepare,
        )
        for name, kind in sources.items()
    )


@pytest.mark.slow
def test_an_epoch_without_a_nan(tmp_path):
    faults = fault_set.write(tmp_path, records=RECORDS, broken=BROKEN)
    out = tmp_path / "prepared"
    arguments = ["--source=tsv", "--layout=vision_language", f"--paths={faults.path}"]
    assert run_prepare([*arguments, f"--out={out}", "--processes=1"]) == 0

    mixture = tasks(out)
    sizes = [len(task.source.open("train")) for task in mixture]
    assert sum(sizes[:3]) == RECORDS - BROKEN
    pipeline = MixturePipeline(mixture, tuple(map(float, sizes)), LENGTHS, BATCH)
    config = SIZES["nano"]
    assert tokenizer().layout.size <= config.vocab_size
    model = OFA(config)
    steps = -(-sum(sizes) // BATCH)
    tx, schedule = build_optimizer(OptimizerConfig(ScheduleConfig(peak=1e-3, total_steps=steps)))
    batches = pipeline.iterate()
    first = next(batches)
    state = jax.jit(lambda key: nn.meta.unbox(TrainState.create(model, tx, key, first)))(
        jax.random.key(0, impl="rbg")
    )
    step = make_train_step(
        model,
        tx,
        schedule,
        LossConfig(),
        vocab_size=config.vocab_size,
        num_tasks=len(mixture),
    )
    losses = []
    batch = first
    for _ in range(steps):
        assert np.isfinite(batch["decoder_loss_weights"]).all()
        assert (batch["decoder_loss_weights"].sum(1) > 0).all()
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
        batch = next(batches)
    assert len(losses) == steps
    assert np.isfinite(losses).all(), losses
    assert losses[-1] < losses[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

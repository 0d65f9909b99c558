"""A small linen module with the call signature of the model, and batches for it."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

VOCAB_SIZE = 20
PADDED_SIZE = 24


class StandIn(nn.Module):
    """Embeds the decoder input, adds the mean of the source, batch norm, dropout, logits."""

    width: int = 8
    dropout: float = 0.0
    use_batch_norm: bool = True

    @nn.compact
    def __call__(self, batch, *, train=False):
        table = self.param(
            "embedding",
            nn.with_logical_partitioning(nn.initializers.normal(0.5), ("vocab", "embed")),
            (PADDED_SIZE, self.width),
        )
        source = table[batch["encoder_input_tokens"]].mean(1, keepdims=True)
        x = table[batch["decoder_input_tokens"]] + source
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        if self.use_batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(nn.initializers.normal(0.5), ("embed", "mlp")),
            (self.width, 2 * self.width),
        )
        back = self.param(
            "back",
            nn.with_logical_partitioning(nn.initializers.normal(0.5), ("mlp", "embed")),
            (2 * self.width, self.width),
        )
        x = x + jnp.tanh(x @ kernel) @ back
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = x @ table.T
        return jnp.where(jnp.arange(PADDED_SIZE) < VOCAB_SIZE, logits, -1e9)


def make_batch(size=8, source=4, target=5, num_tasks=2, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, target + 1, size)
    weights = (np.arange(target) < lengths[:, None]) * rng.uniform(0.5, 2.0, (size, 1))
    return {
        "encoder_input_tokens": rng.integers(4, VOCAB_SIZE, (size, source)).astype(np.int32),
        "decoder_input_tokens": rng.integers(4, VOCAB_SIZE, (size, target)).astype(np.int32),
        "decoder_target_tokens": rng.integers(4, VOCAB_SIZE, (size, target)).astype(np.int32),
        "decoder_loss_weights": weights.astype(np.float32),
        "task_ids": (np.arange(size) % num_tasks).astype(np.int32),
    }

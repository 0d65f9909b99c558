"""What t5x's one decoding program needs to serve tasks of different kinds.

The native runner compiles a search per kind of target: text, or image codes. t5x compiles one, and
rows say through their code mask what they want.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from ofa_jax import vocab


@struct.dataclass
class CodesInCodeRows:
    """Rows of image codes give exactly `num_codes` codes, then EOS; other rows are free.

    OFA-NOTE: SPEC 7.1. The probabilities of codes are renormalized over the codes alone; the
    official code keeps the four specials in that sum and then forbids them.

    Attributes:
      code_masks: bool[b], True = image codes.
      code_range: first id of the codes, and the one after the last. Static.
      num_codes: codes per image. Static.
    """

    code_masks: jax.Array
    code_range: tuple[int, int] = struct.field(pytree_node=False)
    num_codes: int = struct.field(pytree_node=False)

    def init_state(self, batch: int, beams: int) -> jax.Array:
        """int32[b, g]: tokens so far."""
        return jnp.zeros((batch, beams), jnp.int32)

    def allowed(self, state: jax.Array, vocab_size: int) -> jax.Array:
        """bool[b, g, v]."""
        ids = jnp.arange(vocab_size)
        codes = (ids >= self.code_range[0]) & (ids < self.code_range[1])
        wanted = jnp.where((state < self.num_codes)[..., None], codes, ids == vocab.EOS_ID)
        return wanted | ~self.code_masks[:, None, None]

    def advance(self, state: jax.Array, tokens: jax.Array) -> object:
        """One token more."""
        del tokens
        return state + 1

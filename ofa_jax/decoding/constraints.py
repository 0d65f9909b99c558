"""What may be generated: id ranges, a trie of candidate answers, and their combination.

A constraint is a pytree of small tables on the device plus three methods that run inside the
jitted decoding loop, so a new answer list or a new set of names compiles nothing anew as long as
its tables keep their shapes. Its state is a pytree with leaves [b, g, ...] which the search moves
with the beams. Decoder prompts are the search's business: constraints see only the answer.

Flow: candidate texts -> ids -> `Trie.build` (numpy) -> `rules.step_scores`, `ranking`, and the
masks of the constrained training loss (`Trie.target_masks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from ofa_jax import vocab

__all__ = ["Constraint", "IdRanges", "State", "Trie", "advance_state", "initial_state"]

State = PyTree[Shaped[Array, "b g ..."]]


@runtime_checkable
class Constraint(Protocol):
    """Says which ids may come next. Implementations are pytrees."""

    def init_state(self, batch: int, beams: int) -> State:
        """The state before the first token."""
        ...

    def allowed(self, state: PyTree, vocab_size: int) -> Bool[Array, "#b #g v"]:
        """True = the id may come next."""
        ...

    def advance(self, state: PyTree, tokens: Int[Array, "b g"]) -> State:
        """The state after the tokens were chosen."""
        ...


@struct.dataclass
class IdRanges:
    """Ids of some ranges only, for instance box bins or image codes (SPEC 5.1, 7.1).

    The four specials are always allowed, as in the official code: EOS has to be, and the other
    three therefore take part in the softmax.

    Attributes:
      ranges: ((start, end), ...), end exclusive. Static: part of what is compiled.
    """

    ranges: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)

    def __post_init__(self) -> None:
        if not self.ranges:
            raise ValueError("IdRanges needs at least one (start, end)")
        for start, end in self.ranges:
            if not vocab.NUM_SPECIALS <= start < end:
                raise ValueError(
                    f"an id range must have {vocab.NUM_SPECIALS} <= start < end, got ({start}, "
                    f"{end})"
                )

    def ids(self) -> np.ndarray:
        """int32[n]: every id that is ever allowed, the specials first."""
        ranges = (np.arange(*one) for one in ((0, vocab.NUM_SPECIALS), *self.ranges))
        return np.concatenate(list(ranges)).astype(np.int32)

    def init_state(self, batch: int, beams: int) -> tuple[()]:
        """Ranges remember nothing."""
        del batch, beams
        return ()

    def allowed(self, state: tuple[()], vocab_size: int) -> Bool[Array, "1 1 v"]:
        """Raises ValueError where a range ends beyond the vocabulary."""
        del state
        last = max(end for _, end in self.ranges)
        if last > vocab_size:
            raise ValueError(f"an id range ends at {last}, the vocabulary at {vocab_size}")
        mask = np.arange(vocab_size) < vocab.NUM_SPECIALS
        for start, end in self.ranges:
            mask[start:end] = True
        return jnp.asarray(mask)[None, None]

    def advance(self, state: tuple[()], tokens: Int[Array, "b g"]) -> tuple[()]:
        """Ranges remember nothing."""
        del tokens
        return state


@struct.dataclass
class Trie:
    """A closed set of token sequences, as compressed tables (SPEC 7.2).

    After a prefix of a candidate its continuations are allowed, after a whole candidate EOS,
    after anything else only EOS. Node 0 is the root (nothing generated yet), the last node
    stands for all unknown prefixes.

    The children of a node are the slice `child_starts[n] : child_starts[n + 1]` of two parallel
    edge tables, sorted by token. Most nodes have few children, and their mask is written edge by
    edge; the few nodes with many (the root of 3,129 answers has over a thousand) own a ready row
    of `wide_masks`. So the tables of 21,000 names take a few megabytes instead of
    nodes x vocabulary.

    Attributes:
      child_starts: one more than there are nodes.
      child_tokens: the id on each edge.
      child_nodes: the node it leads to.
      wide_rows: row of `wide_masks`, -1 for nodes with at most `narrow_width` children.
      wide_masks: as wide as the largest id + 1.
      narrow_width: the most children that are written edge by edge (static).
      search_steps: halvings that find one child among the most of any node (static).
    """

    child_starts: Int[Array, "starts"]
    child_tokens: Int[Array, "edges"]
    child_nodes: Int[Array, "edges"]
    wide_rows: Int[Array, "nodes"]
    wide_masks: Bool[Array, "rows ids"]
    narrow_width: int = struct.field(pytree_node=False)
    search_steps: int = struct.field(pytree_node=False)

    @classmethod
    def build(cls, candidates: Sequence[Sequence[int]], *, narrow_width: int = 32) -> Trie:
        """Compresses candidates, in numpy on the host.

        Args:
          candidates: internal ids of each candidate, without BOS and EOS (of " " + answer in
            English, SPEC 7.2).
          narrow_width: see the class.

        Raises:
          ValueError: no candidate, an empty one, or one that contains PAD, BOS or EOS.
        """
        if not len(candidates):
            raise ValueError("a trie needs at least one candidate")
        children: list[dict[int, int]] = [{}]
        for number, candidate in enumerate(candidates):
            tokens = [int(token) for token in candidate]
            if not tokens or min(tokens) < vocab.UNK_ID:
                raise ValueError(
                    f"candidate {number} of the trie must be a non-empty list of ids without pad, "
                    f"bos and eos, got {tokens}"
                )
            node = 0
            for token in [*tokens, vocab.EOS_ID]:
                following = children[node].setdefault(token, len(children))
                if following == len(children):
                    children.append({})
                node = following
        unknown = len(children)
        # EOS after an unknown prefix ends the hypothesis; where it leads is never asked.
        children.append({vocab.EOS_ID: unknown})

        counts = np.array([len(edges) for edges in children], np.int32)
        wide = counts > narrow_width
        edges = [edge for node in children for edge in sorted(node.items())]
        tokens, nodes = np.array(edges, np.int32).T
        wide_masks = np.zeros((int(wide.sum()), int(tokens.max()) + 1), bool)
        for row, node in enumerate(np.flatnonzero(wide)):
            wide_masks[row, list(children[node])] = True
        return cls(
            child_starts=jnp.asarray(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)),
            child_tokens=jnp.asarray(tokens),
            child_nodes=jnp.asarray(nodes),
            wide_rows=jnp.asarray(np.where(wide, np.cumsum(wide) - 1, -1).astype(np.int32)),
            wide_masks=jnp.asarray(wide_masks),
            narrow_width=int(counts[~wide].max(initial=1)),
            search_steps=int(counts.max()).bit_length(),
        )

    @property
    def num_nodes(self) -> int:
        """Nodes, the one for unknown prefixes included."""
        return self.child_starts.shape[0] - 1

    def init_state(self, batch: int, beams: int) -> Int[Array, "b g"]:
        """Every beam at the root."""
        return jnp.zeros((batch, beams), jnp.int32)

    def allowed(self, state: Int[Array, "b g"], vocab_size: int) -> Bool[Array, "b g v"]:
        """Which ids continue a candidate, by the node of each beam.

        Raises:
          ValueError: the trie contains ids beyond the vocabulary.
        """
        width = self.wide_masks.shape[1]
        if width > vocab_size:
            raise ValueError(
                f"the trie contains id {width - 1}, the vocabulary ends at {vocab_size - 1}"
            )
        starts = self.child_starts[state]
        rows = self.wide_rows[state]
        is_narrow = (rows < 0)[..., None]
        offsets = jnp.arange(self.narrow_width)
        is_child = (offsets < (self.child_starts[state + 1] - starts)[..., None]) & is_narrow
        edges = jnp.minimum(starts[..., None] + offsets, self.child_tokens.shape[0] - 1)
        tokens = jnp.where(is_child, self.child_tokens[edges], vocab_size)

        if self.wide_masks.shape[0]:
            # One more row, all False, for the narrow nodes.
            wide_masks = jnp.pad(self.wide_masks, ((0, 1), (0, vocab_size - width)))
            mask = wide_masks[rows]
        else:
            mask = jnp.zeros((*state.shape, vocab_size), bool)
        sentences = jnp.arange(state.shape[0])[:, None, None]
        beams = jnp.arange(state.shape[1])[None, :, None]
        return mask.at[sentences, beams, tokens].set(True, mode="drop")

    def advance(
        self, state: Int[Array, "*shape"], tokens: Int[Array, "*shape"]
    ) -> Int[Array, "*shape"]:
        """Follows one edge; a token that is no child leads to the node of unknown prefixes."""
        end = self.child_starts[state + 1]

        def halve(_: object, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            is_before = self._token(middle) < tokens
            proceed = low < high
            return (
                jnp.where(proceed & is_before, middle + 1, low),
                jnp.where(proceed & ~is_before, middle, high),
            )

        edge, _ = jax.lax.fori_loop(
            0, self.search_steps, halve, (self.child_starts[state], end), unroll=True
        )
        is_child = (edge < end) & (self._token(edge) == tokens)
        edge = jnp.minimum(edge, self.child_nodes.shape[0] - 1)
        return jnp.where(is_child, self.child_nodes[edge], self.num_nodes - 1)

    def nodes_before(
        self, tokens: Int[Array, "b t"], prompt_lengths: Int[Array, "b"] | None = None
    ) -> Int[Array, "b t"]:
        """The node at which each token of a sequence is chosen.

        Args:
          tokens: without BOS.
          prompt_lengths: tokens at the front that do not belong to the candidate.

        Returns:
          Nodes; the root within the prompt.
        """
        if prompt_lengths is None:
            prompt_lengths = jnp.zeros(tokens.shape[0], jnp.int32)

        def walk(node: Array, column: tuple[Array, Array]):
            position, token = column
            following = jnp.where(position < prompt_lengths, node, self.advance(node, token))
            return following, node

        root = jnp.zeros(tokens.shape[0], jnp.int32)
        _, nodes = jax.lax.scan(walk, root, (jnp.arange(tokens.shape[1]), tokens.T))
        return nodes.T

    def target_masks(
        self,
        targets: Int[Array, "b t"],
        vocab_size: int,
        prompt_lengths: Int[Array, "b"] | None = None,
    ) -> Bool[Array, "b t v"]:
        """Allowed ids at each position of a training target (SPEC 7.2, for the loss of 5.1).

        Args:
          targets: EOS last, padding after it.
          vocab_size: v.
          prompt_lengths: target positions that repeat the decoder prompt; their rows are all False.
        """
        masks = self.allowed(self.nodes_before(targets, prompt_lengths), vocab_size)
        if prompt_lengths is None:
            return masks
        in_prompt = jnp.arange(targets.shape[1]) < prompt_lengths[:, None]
        return masks & ~in_prompt[..., None]

    def _token(self, edge: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The id on an edge; an index past the table reads its last entry."""
        return self.child_tokens[jnp.minimum(edge, self.child_tokens.shape[0] - 1)]


def initial_state(constraint: Constraint | None, batch: int, beams: int) -> State:
    """The constraint's first state; () without a constraint."""
    return () if constraint is None else constraint.init_state(batch, beams)


def advance_state(
    constraint: Constraint | None,
    state: State,
    tokens: Int[Array, "b g"],
    waits: Bool[Array, "b"],
) -> State:
    """Moves the constraint on by one token.

    Args:
      constraint: may be None.
      state: its state.
      tokens: the chosen ones.
      waits: sentences that are still reading their prompt and stay where they are.
    """
    if constraint is None:
        return state

    def move(before: Array, after: Array) -> Array:
        return jnp.where(waits.reshape(-1, *[1] * (after.ndim - 1)), before, after)

    return jax.tree.map(move, state, constraint.advance(state, tokens))

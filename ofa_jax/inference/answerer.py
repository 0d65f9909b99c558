"""Answers of a model to batches of any task, by the task's own recipe.

Between the input rows and the evaluator: chooses search, ranking or sampling as `Answering` says,
gives the decoder its prompt and constrains it to the closed set.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofa_jax.data.features import Row
from ofa_jax.data.task import Lengths, OFATask
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint, IdRanges, Trie
from ofa_jax.decoding.generate import ENCODER_KEYS, generate
from ofa_jax.decoding.ranking import Candidates, rank
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.text.tokenizer import Tokenizer

Place = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]

_MODEL_KEYS = (*ENCODER_KEYS, "decoder_code_masks")


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered to a batch.

    Attributes:
      tokens: int32[b, t] ids without bos and prompt, with eos where it was scored.
      scores: float32[b] log-probability, normalised as the decoding settings say.
    """

    tokens: np.ndarray
    scores: np.ndarray


def on_default_device(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Puts a batch onto the default device."""
    return {name: jnp.asarray(value) for name, value in batch.items()}


@dataclasses.dataclass(frozen=True)
class Answerer:
    """Answers batches of rows.

    Attributes:
      model: the model.
      tokenizer: of the tasks.
      lengths: task feature lengths.
      beam_size: beams of tasks whose recipe does not name any; 1 is greedy.
      method: replaces the method of tasks that have a closed set ("search" or "candidates"); ""
        keeps the task's own.
      chunk: candidates that are scored at a time.
      place: puts a batch onto the devices.
      seed: of sampling.
    """

    model: OFA
    tokenizer: Tokenizer
    lengths: Lengths
    beam_size: int = 1
    method: str = ""
    chunk: int = 64
    place: Place = on_default_device
    seed: int = 0

    def __call__(self, variables: Any, task: OFATask, rows: Row, number: int = 0) -> Answers:
        """Answers one batch.

        Args:
          variables: {"params", "batch_stats"}.
          task: the task of all rows.
          rows: a batch of the input pipeline, numpy.
          number: of the batch, which sampling folds into its key.
        """
        answering = task.answering
        batch = {name: rows[name] for name in _MODEL_KEYS if name in rows}
        prompts = answering.prompts(np.asarray(rows["encoder_input_tokens"]))
        if prompts is not None:
            # With the answer they fit into the targets, see `Answering.shape_target`.
            batch["prefix"] = prompts[:, : self.lengths["targets"] - (answering.max_tokens or 0)]
        placed = dict(self.place(batch))
        prefix = placed.pop("prefix", None)
        method = answering.method
        if self.method and answering.answers is not None:
            method = self.method
        if method == "candidates":
            return self._rank(variables, task, placed, prefix)
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        settings = self.settings(task)
        found = generate(
            self.model,
            variables,
            placed,
            settings,
            constraint=self.constraint(task),
            prefix=prefix,
            rng=key if isinstance(settings, SamplingConfig) else None,
        )
        return Answers(np.asarray(found.tokens[:, 0]), np.asarray(found.scores[:, 0]))

    def settings(self, task: OFATask) -> BeamConfig | SamplingConfig:
        """Search or sampling settings of a task: its recipe over the run's defaults."""
        codes = task.target_modality == "CODE"
        given: dict[str, Any] = dict(task.answering.decoding)
        if codes:
            given |= {"max_len_b": self.model.config.code_window**2, "gen_code": True}
        given.setdefault("max_len_b", task.answering.max_tokens or self.lengths["targets"] - 1)
        if task.answering.method == "sampling":
            return SamplingConfig(**given)
        given.setdefault("zero_shot", not task.answering.renormalise)
        beams: dict[str, Any] = {"beam": self.beam_size}
        return BeamConfig(**(beams | given))

    def constraint(self, task: OFATask) -> Constraint | None:
        """What may be generated: image codes, the closed set, or anything."""
        layout = self.tokenizer.layout
        if task.target_modality == "CODE":
            return IdRanges(((layout.code_start, layout.bin_start),))
        if task.answering.answers is not None:
            return closed_set(task.candidate_ids())
        return None

    def _rank(self, variables: Any, task: OFATask, batch: Any, prefix: Any) -> Answers:
        ids = task.candidate_ids()
        answering = task.answering
        candidates = _candidates(ids, self.chunk, answering.renormalise, answering.ends_with_eos)
        scores = rank(self.model, variables, batch, candidates, prefix=prefix)
        found = candidates.best(scores, 1)
        return Answers(np.asarray(found.tokens[:, 0]), np.asarray(found.scores[:, 0]))


@functools.lru_cache(maxsize=8)
def closed_set(ids: tuple[tuple[int, ...], ...]) -> Trie:
    """The trie of a closed set of answers, built once.

    Args:
      ids: of each answer, without eos.
    """
    return Trie.build(ids)


@functools.lru_cache(maxsize=8)
def _candidates(
    ids: tuple[tuple[int, ...], ...], chunk: int, renormalise: bool, append_eos: bool
) -> Candidates:
    return Candidates.build(ids, chunk=chunk, renormalise=renormalise, append_eos=append_eos)

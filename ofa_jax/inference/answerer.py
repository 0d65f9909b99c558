"""The one answerer: batches of any task or instruction, by a recipe.

Between the input rows and whoever asks (`load`, `infer`, `eval`, evaluation in training, t5x):
chooses search, ranking or sampling as the recipe says, gives the decoder its prompt, constrains it
to the closed set, and says how probable the answers are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ofa_jax.data.tasks.answering import FREE_ANSWER, Answering
from ofa_jax.data.tasks.features import FeatureRow
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import Constraint, IdRanges, Trie
from ofa_jax.decoding.generate import ENCODER_KEYS, generate
from ofa_jax.decoding.ranking import Candidates, rank
from ofa_jax.decoding.rules import Hypotheses
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.model.config import OFAConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.vocab import VocabLayout

_MODEL_KEYS = (*ENCODER_KEYS, "decoder_code_masks")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a batch is answered.

    Attributes:
      answering: prompt, closed set, method, settings.
      max_tokens: longest answer, eos not counted, where `answering` does not say.
      max_prompt: longest decoder prompt; None is the whole source.
      codes: whether the answer is image codes.
      candidates: ids of each answer of the closed set, without eos; None where there is none.
      constraint: what may be generated, where it is neither codes nor a closed set.
      empty_prompt: ids of the source without its texts, for guidance; None where the model has not
        been trained with such.
    """

    answering: Answering = FREE_ANSWER
    max_tokens: int = 64
    max_prompt: int | None = None
    codes: bool = False
    candidates: tuple[tuple[int, ...], ...] | None = None
    constraint: Constraint | None = None
    empty_prompt: tuple[int, ...] | None = None

    @classmethod
    def of_task(cls, task: OFATask, target_length: int) -> Recipe:
        """The recipe of a task.

        Args:
          task: the task.
          target_length: of its targets, in which prompt and answer fit together, see
            `Answering.shape_target`.

        Raises:
          ValueError: its list of answers cannot be read, or does not fit.
        """
        closed = task.answering.answers is not None
        return cls(
            task.answering,
            max_tokens=target_length - 1,
            max_prompt=target_length - (task.answering.max_tokens or 0),
            codes=task.target_modality == "CODE",
            candidates=task.candidate_ids() if closed else None,
            empty_prompt=task.empty_prompt(),
        )

    def settings(self, config: OFAConfig, beam_size: int) -> BeamConfig | SamplingConfig:
        """Search or sampling settings: those of the recipe over the defaults.

        Args:
          config: of the model, which knows how many codes an image has.
          beam_size: beams where the recipe does not name any.

        Raises:
          ValueError: a setting that there is not, or a value that cannot be.
        """
        given: dict[str, Any] = dict(self.answering.decoding)
        if self.codes:
            given |= {"max_len_b": config.code_window**2, "gen_code": True}
        given.setdefault("max_len_b", self.answering.max_tokens or self.max_tokens)
        try:
            if self.answering.method == "sampling":
                settings = SamplingConfig(**given)
                if settings.guidance != 1 and self.empty_prompt is None:
                    raise ValueError(
                        f"decoding: guidance must be 1, got {settings.guidance:g}: this model has "
                        "not been trained with empty prompts (Answering.empty_prompts)"
                    )
                return settings
            given.setdefault("zero_shot", not self.answering.renormalize)
            given.setdefault("beam", beam_size)
            return BeamConfig(**given)
        except TypeError as error:
            raise ValueError(f"decoding: {error}") from error

    def allowed(self, layout: VocabLayout) -> Constraint | None:
        """What may be generated: image codes, the closed set, or anything.

        Args:
          layout: of the vocabulary.
        """
        if self.codes:
            return IdRanges(((layout.code_start, layout.bin_start),))
        return self.constraint if self.candidates is None else closed_set(self.candidates)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered to a batch, the best answer of each row first.

    Attributes:
      tokens: int32[b, g, t] ids without bos and prompt, with eos where it was generated.
      scores: float32[b, g] as the recipe counts: log-probabilities, divided by a power of the
        length where it says so. -inf marks a place without an answer.
      log_probabilities: float32[b, g] of the whole answer, the prompt not counted.
      token_log_probabilities: float32[b, g, t], 0 behind the end; None where candidates were
        ranked.
    """

    tokens: np.ndarray
    scores: np.ndarray
    log_probabilities: np.ndarray
    token_log_probabilities: np.ndarray | None = None

    def first(self, count: int) -> Answers:
        """The first so many answers of each row."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        kept: list[Any] = [None if part is None else part[:, :count] for part in parts]
        return Answers(*kept)


@dataclasses.dataclass(frozen=True)
class Answerer:
    """Answers batches of rows.

    Attributes:
      model: the model.
      tokenizer: text, codes and bins.
      layout: devices on which it answers.
      beam_size: beams of recipes that do not name any; 1 is greedy.
      method: replaces the method of recipes that have a closed set ("search" or "candidates"); ""
        keeps the recipe's own.
      chunk: candidates that are scored at a time.
      seed: of sampling.
    """

    model: OFA
    tokenizer: Tokenizer
    layout: MeshLayout
    beam_size: int = 1
    method: str = ""
    chunk: int = 64
    seed: int = 0

    def __call__(
        self, variables: PyTree, recipe: Recipe, rows: FeatureRow, number: int = 0, *, best: int = 1
    ) -> Answers:
        """Answers one batch.

        Args:
          variables: {"params", "batch_stats"}, on the devices of `layout`.
          recipe: of all rows.
          rows: arrays [b, ...] of the input pipeline, the same on every process.
          number: of the batch, which sampling folds into its key.
          best: answers per row, g; a search may have fewer, as many as its beams.
        """
        tokens = np.asarray(rows["encoder_input_tokens"])
        batch = {name: np.asarray(rows[name]) for name in _MODEL_KEYS if name in rows}
        prompts = recipe.answering.prompts(tokens)
        if prompts is not None:
            batch["prefix"] = prompts[:, : recipe.max_prompt]
        if recipe.empty_prompt is not None:
            empty = np.zeros_like(tokens)
            empty[:, : len(recipe.empty_prompt)] = recipe.empty_prompt[: tokens.shape[1]]
            batch["unconditional"] = empty
        placed = self.layout.place(_filled(batch, self.layout.parts))
        prefix = placed.pop("prefix", None)
        ask = self._rank if self._ranks(recipe) else self._generate
        *found, by_token = self.layout.run(ask, variables, recipe, placed, prefix, number, best)
        size = len(tokens)
        best_tokens, scores, log_probabilities = (value[:size] for value in found)
        return Answers(
            best_tokens, scores, log_probabilities, None if by_token is None else by_token[:size]
        )

    def _ranks(self, recipe: Recipe) -> bool:
        method = recipe.answering.method
        if self.method and recipe.candidates is not None:
            method = self.method
        return method == "candidates"

    def _generate(
        self, variables: Any, recipe: Recipe, placed: Any, prefix: Any, number: int, best: int
    ) -> tuple[PyTree, ...]:
        settings = recipe.settings(self.model.config, self.beam_size)
        sampled = isinstance(settings, SamplingConfig)
        found = generate(
            self.model,
            variables,
            placed,
            settings,
            constraint=self.layout.replicate(recipe.allowed(self.tokenizer.layout)),
            prefix=prefix,
            unconditional=placed.get("unconditional"),
            rng=self.layout.key(self.seed, number) if sampled else None,
        )
        return self._fetched(found, best)

    def _fetched(self, found: Hypotheses, best: int) -> tuple[PyTree, ...]:
        parts = (found.tokens, found.scores, found.log_probabilities, found.positional_scores)
        return self.layout.fetch(jax.tree.map(lambda part: part[:, :best], parts))

    def _rank(
        self, variables: Any, recipe: Recipe, placed: Any, prefix: Any, number: int, best: int
    ) -> tuple[PyTree, ...]:
        del number
        ids, answering = recipe.candidates, recipe.answering
        assert ids is not None, "Answering refuses to rank without a closed set"
        candidates = self.layout.replicate(
            _candidates(ids, self.chunk, answering.renormalize, answering.ends_with_eos)
        )
        scores = rank(self.model, variables, placed, candidates, prefix=prefix)
        return self._fetched(candidates.best(scores, best), best)


def _filled(batch: FeatureRow, parts: int) -> FeatureRow:
    """A batch whose size the devices divide, filled up with copies of its first row."""
    size = len(batch["encoder_input_tokens"])
    missing = -size % parts
    if not missing:
        return batch
    return {
        name: np.concatenate([value, np.repeat(value[:1], missing, axis=0)])
        for name, value in batch.items()
    }


@functools.lru_cache(maxsize=8)
def closed_set(ids: tuple[tuple[int, ...], ...]) -> Trie:
    """The trie of a closed set of answers, built once.

    Args:
      ids: of each answer, without eos.
    """
    return Trie.build(ids)


@functools.lru_cache(maxsize=8)
def _candidates(
    ids: tuple[tuple[int, ...], ...], chunk: int, renormalize: bool, append_eos: bool
) -> Candidates:
    return Candidates.build(ids, chunk=chunk, renormalize=renormalize, append_eos=append_eos)

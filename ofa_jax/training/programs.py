"""Compiled programs of the training step, one for each shape of batch.

Compiling ahead of the first call tells how long it takes and how much memory a step needs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from ofa_jax.ops.host_memory import give_back_freed_memory

logger = logging.getLogger("ofa_jax")


class StepPrograms:
    """A jitted step as a callable that compiles each shape of batch once, and says so."""

    def __init__(self, step: Callable[..., PyTree], name: str = "step") -> None:
        """Takes a step.

        Args:
          step: function of (state, batch, ...) that `jax.jit` made.
          name: for the log.
        """
        self._step: Any = step
        self._name = name
        self._programs: dict[tuple, jax.stages.Compiled] = {}

    def prepare(self, state: PyTree, batch: Mapping[str, jax.Array], *others: PyTree) -> bool:
        """Compiles for a batch of this shape unless that is done; logs time and memory.

        Args:
          state: first argument of the step.
          batch: second one.
          *others: the rest.

        Returns:
          Whether it compiled.
        """
        key = _shapes(batch)
        if key in self._programs:
            return False
        started = time.perf_counter()
        program = self._step.lower(state, batch, *others).compile()
        self._programs[key] = program
        seconds = time.perf_counter() - started
        give_back_freed_memory()
        memory = program_memory(program)
        logger.info(
            "compiled the %s for %d examples in %.0f s; per device: %s",
            self._name,
            next(iter(batch.values())).shape[0],
            seconds,
            ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in memory.items()),
        )
        return True

    def __call__(self, state: PyTree, batch: Mapping[str, jax.Array], *others: PyTree) -> PyTree:
        """One step."""
        self.prepare(state, batch, *others)
        return self._programs[_shapes(batch)](state, batch, *others)


def program_memory(program: jax.stages.Compiled) -> dict[str, int]:
    """What a compiled program needs on each device.

    Args:
      program: from `jax.jit(...).lower(...).compile()`.

    Returns:
      Bytes of its "arguments" (state and batch; the new state takes the old one's place),
      "results" besides them, "temporary" arrays, and their "total"; empty where the compiler does
      not tell.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return {}
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory = {
        "arguments": analysis.argument_size_in_bytes,
        "results": max(0, results),
        "temporary": analysis.temp_size_in_bytes,
    }
    return {**memory, "total": sum(memory.values())}


def _shapes(batch: Mapping[str, jax.Array]) -> tuple:
    return tuple((name, value.shape, str(value.dtype)) for name, value in sorted(batch.items()))

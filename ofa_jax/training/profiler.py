"""Records a profile of a few steps, to be opened in TensorBoard or Perfetto.

One window per run, counted in steps of the run: a run that resumes behind it records nothing.
"""

from __future__ import annotations

import logging
import os

import jax

logger = logging.getLogger("ofa_jax")


class ProfilerWindow:
    """Watches the steps of a loop and records those of its window."""

    def __init__(self, directory: str | os.PathLike, first_step: int, steps: int) -> None:
        """Waits for the window.

        Args:
          directory: where the profile goes; TensorBoard shows it from the directory above.
          first_step: finished steps when recording starts.
          steps: how many are recorded.

        Raises:
          ValueError: a window that cannot be.
        """
        if first_step < 0 or steps < 1:
            raise ValueError(
                f"a profile needs first_step >= 0 and steps >= 1, got {first_step} and {steps}"
            )
        self._directory = os.fspath(directory)
        self._first, self._end = first_step, first_step + steps
        self._recording = False

    def before(self, step: int, state: object) -> None:
        """Starts or ends recording where the window does.

        Args:
          step: finished steps.
          state: the newest state; waited for, so that the work of a step is in its window.
        """
        if not self._recording and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._directory)
            self._recording = True
        elif self._recording and step >= self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends recording where the run ends inside the window."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
            logger.info("profile of the steps after %d: %s", self._first, self._directory)

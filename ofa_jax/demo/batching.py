"""Concurrent questions become batches of few static sizes, answered by one thread.

While the model answers, questions arrive; the next batch is the oldest of them and all that can be
answered by the same program, filled up to a power of two, so that few programs are compiled. A
question that arrives at an idle model is answered at once and alone.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any


class StoppedError(RuntimeError):
    """The demo is being stopped."""


@dataclasses.dataclass
class _Waiting:
    key: Hashable
    question: Any
    alone: object | None = None
    future: concurrent.futures.Future = dataclasses.field(default_factory=concurrent.futures.Future)


class Batcher:
    """Answers questions in batches; `submit` may be called from any thread."""

    def __init__(
        self,
        answer: Callable[[Any, Sequence[Any]], Sequence[Any]],
        *,
        batch_size: int,
    ) -> None:
        """Starts the thread.

        Args:
          answer: of (key, questions), one answer per question, in order.
          batch_size: most questions at once.
        """
        self._answer = answer
        self._batch_size = batch_size
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(
        self, key: Hashable, question: Any, *, alone: bool = False
    ) -> concurrent.futures.Future:
        """Puts a question into the queue.

        Args:
          key: questions of equal keys may share a batch.
          question: what `answer` is given.
          alone: share no batch, whatever the key.

        Returns:
          Its answer to be.

        Raises:
          StoppedError: the batcher is closed.
        """
        one = _Waiting(key, question, object() if alone else None)
        with self._changed:
            if self._closed:
                raise StoppedError("the demo is being stopped")
            self._waiting.append(one)
            self._changed.notify()
        return one.future

    def close(self) -> None:
        """Ends the thread after the batch that it answers; who waits is told."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        while self._waiting:
            one = self._waiting.popleft()
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(StoppedError("the demo is being stopped"))

    def _run(self) -> None:
        while batch := self._next():
            self._settle(batch)

    def _next(self) -> list[_Waiting]:
        """The oldest question and those that go with it; [] once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return []
            first = self._waiting[0]
            batch = [
                one
                for one in self._waiting
                if one is first or (one.key == first.key and one.alone is first.alone)
            ][: self._batch_size]
            for one in batch:
                self._waiting.remove(one)
            return batch

    def _settle(self, batch: list[_Waiting]) -> None:
        batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
        if not batch:
            return
        key = batch[0].key
        questions = [one.question for one in batch]
        size = min(1 << (len(batch) - 1).bit_length(), self._batch_size)
        try:
            answers = self._answer(key, questions + questions[:1] * (size - len(batch)))
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One bad question spoils nobody else's answer.
            for one in batch:
                try:
                    one.future.set_result(self._answer(key, [one.question])[0])
                except Exception as own:
                    one.future.set_exception(own)
            return
        for one, answer in zip(batch, answers):
            one.future.set_result(answer)

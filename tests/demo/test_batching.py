"""Concurrent questions in one queue: batches of static sizes, answers to whom they belong."""

import threading
import time

import pytest

from ofa_jax.demo.batching import Batcher, StoppedError


class Model:
    """Answers with the question and its key; the first batch waits until `go`."""

    def __init__(self):
        self.sizes, self.began, self.go = [], threading.Event(), threading.Event()

    def __call__(self, key, questions):
        self.began.set()
        self.go.wait(10)
        self.sizes.append((key, len(questions)))
        if "bad" in questions:
            raise ValueError("bad")
        return [(key, question) for question in questions]


@pytest.fixture
def asked():
    model = Model()
    batcher = Batcher(model, batch_size=4)
    first = batcher.submit("a", 0)
    assert model.began.wait(10)
    yield model, batcher, first
    model.go.set()
    batcher.close()


def settled(futures):
    return [future.result(10) for future in futures]


def refused(batcher):
    try:
        return batcher.submit("c", 1) is None
    except StoppedError:
        return True


def test_what_waits_is_batched_by_key_in_sizes_that_are_powers_of_two(asked):
    model, batcher, first = asked
    keys = ["a", "b", "a", "a", "b", "b", "b", "b"]
    futures = [batcher.submit(key, number) for number, key in enumerate(keys)]
    model.go.set()
    assert settled([first]) == [("a", 0)]
    assert settled(futures) == [(key, number) for number, key in enumerate(keys)]
    assert model.sizes == [("a", 1), ("a", 4), ("b", 4), ("b", 1)]


def test_one_bad_question_fails_alone(asked):
    model, batcher, first = asked
    good, bad, other = (batcher.submit("b", one) for one in (1, "bad", 2))
    model.go.set()
    assert settled([first, good, other]) == [("a", 0), ("b", 1), ("b", 2)]
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)


def test_alone_and_cancelled(asked):
    model, batcher, first = asked
    drawn = [batcher.submit("s", number, alone=True) for number in range(2)]
    gone = batcher.submit("s", 9)
    assert gone.cancel()
    model.go.set()
    settled([first, *drawn])
    assert [size for key, size in model.sizes if key == "s"] == [1, 1]


def test_a_closed_batcher_tells_who_waits(asked):
    model, batcher, first = asked
    waiting = batcher.submit("b", 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    for _ in range(1000):
        if refused(batcher):
            break
        time.sleep(0.01)
    assert refused(batcher)
    model.go.set()
    closing.join(10)
    assert settled([first]) == [("a", 0)]
    assert isinstance(waiting.exception(10), StoppedError)

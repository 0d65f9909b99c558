"""Signals set a flag, twice stops at once, old handlers come back."""

import os
import signal
import threading

import pytest

from ofa_jax.training.preemption import PreemptionHandler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_sets_the_flag_second_raises(number):
    before = signal.getsignal(number)
    with PreemptionHandler() as handler:
        assert not handler.requested
        os.kill(os.getpid(), number)
        assert handler.requested
        with pytest.raises(KeyboardInterrupt, match="second signal"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_install_nothing():
    results = []

    def work():
        with PreemptionHandler() as handler:
            results.append((handler.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [(False, before)]

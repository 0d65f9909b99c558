"""One host of a training run, which the test may tell to die or to be asked to stop.

OFA_TEST_KILL_STEP: this host is gone (SIGKILL) before that step of the session.
OFA_TEST_STOP_STEP: this host gets SIGTERM before that step of the session.
OFA_TEST_KILL_IN: "save", "evaluation" or "compile"; this host is gone in the middle of it.
"""

import os
import signal
import sys
import threading

from ofa_jax.cli import entry, shell

SIGNALS = {"OFA_TEST_KILL_STEP": signal.SIGKILL, "OFA_TEST_STOP_STEP": signal.SIGTERM}


def send_signals():
    from ofa_jax.training.programs import StepPrograms

    step, taken = StepPrograms.__call__, []

    def counted_step(self, *arguments):
        taken.append(None)
        for variable, number in SIGNALS.items():
            if os.environ.get(variable) == str(len(taken)):
                os.kill(os.getpid(), number)
        return step(self, *arguments)

    StepPrograms.__call__ = counted_step


def die_in(place):
    """SIGKILL while a checkpoint is written, between two batches of answers, in the compiler."""
    from ofa_jax.checkpoint.manager import CheckpointManager
    from ofa_jax.inference.answerer import Answerer
    from ofa_jax.training.programs import StepPrograms

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    calls = []

    def killed(method, before, after, number):
        def call(*arguments, **options):
            calls.append(None)
            if len(calls) == number:
                before()
            found = method(*arguments, **options)
            if len(calls) == number:
                after()
            return found

        return call

    def soon():
        threading.Timer(0.3, die).start()

    def nothing():
        pass

    if place == "save":  # The second one: its arrays are copied, and are being written.
        CheckpointManager.save = killed(CheckpointManager.save, nothing, die, 2)
    elif place == "evaluation":
        Answerer.__call__ = killed(Answerer.__call__, die, nothing, 2)
    elif place == "compile":
        StepPrograms.prepare = killed(StepPrograms.prepare, soon, nothing, 1)


if __name__ == "__main__":
    shell.set_up_process()
    send_signals()
    die_in(os.environ.get("OFA_TEST_KILL_IN", ""))
    sys.exit(entry.run_train(sys.argv[1:]))

"""One host of a training run, which the test may tell to die or to be asked to stop.

OFA_TEST_KILL_STEP: this host is gone (SIGKILL) before that step of the session.
OFA_TEST_STOP_STEP: this host gets SIGTERM before that step of the session.
"""

import os
import signal
import sys

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


if __name__ == "__main__":
    shell.set_up_process()
    send_signals()
    sys.exit(entry.run_train(sys.argv[1:]))

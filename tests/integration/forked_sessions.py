"""Runs sessions of `python -m ofa_jax.train` as forks of one process that has imported everything.

A session is a line of JSON on stdin:

    {"arguments": [...], "output": FILE, "environment": {...},
     "kill": null | {"step": N, "delay": SECONDS} | {"save": N}}

`kill` ends the session with SIGKILL: some time after its step N (counted from where it started) is
logged, or while it writes its N-th checkpoint. The answer is a line with the exit status, negative
for a signal. Importing takes most of the time of a short run; the parent never makes an array, so
that a fork can start JAX for itself.
"""

import json
import os
import signal
import sys
import threading
import time

from ofa_jax.cli import entry, shell


def kill_after_step(number, delay):
    from ofa_jax.runs.log import RunLog

    write, written = RunLog.write, []

    def counting_write(self, step, values):
        write(self, step, values)
        written.append(step)
        if len(written) == number:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    RunLog.write = counting_write


def kill_while_saving(number):
    """Kills as soon as the directory of an unfinished checkpoint has something in it."""
    from ofa_jax.checkpoint.manager import CheckpointManager

    save, saved = CheckpointManager.save, []

    def watch(directory, step):
        while True:
            for unfinished in directory.glob(f"checkpoint_{step}.orbax-checkpoint-tmp*"):
                if any(unfinished.rglob("*")):
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0005)

    def watched_save(self, step, tree, **others):
        saved.append(step)
        if len(saved) == number:
            threading.Thread(target=watch, args=(self.directory, step), daemon=True).start()
        save(self, step, tree, **others)

    CheckpointManager.save = watched_save


def session(request):
    """The child: becomes a training run."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request["environment"])
    kill = request["kill"] or {}
    if "step" in kill:
        kill_after_step(kill["step"], kill["delay"])
    elif "save" in kill:
        kill_while_saving(kill["save"])
    return entry.run_train(request["arguments"])


def main():
    shell.set_up_process()
    import mixtures.scenes  # noqa: F401
    import ofa_jax.runs.story  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = session(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

"""Process of `test_knobs`: several runs of t5x's `train` one after the other.

Arguments: JSON lists, one for each run, of what follows `t5x/train.py` on its command line. Prints
one JSON list: null for each run that finished, else the line that its user would see. Takes the
place of t5x's script, so that gin files find `train` in `__main__` as they do there.
"""

import json
import sys
import traceback

import gin
from absl import logging
from t5x import gin_utils
from t5x.train import train

from ofa_jax.cli import shell
from ofa_jax.cli.gin_files import split_overrides
from ofa_jax.errors import phases
from ofa_jax.t5x import run_files, script


def run(arguments):
    files, bindings = split_overrides(arguments)
    gin.clear_config()
    with phases() as phase:
        try:
            gin_utils.parse_gin_flags(["."], [file.partition("=")[2] for file in files], bindings)
            script.check()
            configured()
        except Exception as error:
            line = None if phase.started else script.explain(error)
            return line or traceback.format_exc()[-3000:]
        finally:
            run_files.release()
    return None


if __name__ == "__main__":
    shell.set_up_process()
    logging.set_verbosity(logging.ERROR)
    script.name_parts()
    configured = gin.configurable(train)
    print(json.dumps([run(json.loads(argument)) for argument in sys.argv[1:]]))

"""`ablate --engine=t5x`: t5x trains the rows, whose rates gin changes, into the same table."""

import os
import subprocess
import sys

import pytest

from tests.compiling import QUICK_TO_COMPILE
from tests.t5x import checkout, engines

pytestmark = [checkout.requires_t5x, pytest.mark.slow]

SETTINGS = """\
ablation.Ablation:
  gin_files = (
      "gin_configs/t5x/train.gin", "gin_configs/models/nano.gin", "tests/micro.gin")
  directory = {directory!r}
  steps = 2
  seeds = (0,)
  leave_out = ("vqa",)
  bindings = {{
      "MIXTURE_OR_TASK_NAME": "'scenes_without_image_infilling'",
      "TASK_FEATURE_LENGTHS": "{{'inputs': 30, 'targets': 20, 'image': 32}}",
      "BATCH_SIZE": "8",
      "models.OFA.width": "32",
      "models.OFA.ffn_dim": "64",
      "evaluation.EvaluationConfig.final_num_examples": "4",
      "evaluation.EvaluationConfig.batch_size": "4",
  }}
"""


def test_an_ablation_through_t5x(tmp_path):
    path = tmp_path / "rates.gin"
    path.write_text(SETTINGS.format(directory=str(tmp_path / "found")))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK_TO_COMPILE,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        "PYTHONPATH": os.pathsep.join([str(engines.ROOT), *checkout.directories()]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "ofa_jax.ablate", f"--gin_file={path}", "--engine=t5x"]
    done = subprocess.run(
        command, cwd=engines.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    table = (tmp_path / "found" / "table.md").read_text()
    assert "| full |" in table
    # The second table is that of intervals over examples.
    row, *_ = [line for line in table.splitlines() if line.startswith("| without vqa |")]
    assert "–" in row  # not trained, so not evaluated
    again = subprocess.run(
        command, cwd=engines.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "2 of 2 runs are finished" in again.stdout

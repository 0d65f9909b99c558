"""Settings of the C library's allocator."""

import platform
import subprocess
import sys

import pytest

from ofa_jax.cli import entry

PROGRAM = """
import resource
from ofa_jax.ops.host_memory import keep_freed_memory
accepted = keep_freed_memory()
import numpy as np
np.ones(1 << 25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(1 << 25)
print(accepted, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_memory_is_reused():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    accepted, faults = done.stdout.split()
    assert accepted == "True"
    # 256 MiB are 65,536 pages; new ones would be touched each time.
    assert int(faults) < 1000


def test_training_on_a_cpu_asks_for_it(monkeypatch, tmp_path, capsys):
    def asked():
        raise ValueError("memory is kept")

    monkeypatch.setattr("ofa_jax.ops.host_memory.keep_freed_memory", asked)
    settings = f"--gin.MODEL_DIR={tmp_path / 'run'}"
    assert entry.run_train(["--gin_file=gin_configs/runs/quickstart.gin", settings]) == 2
    assert "memory is kept" in capsys.readouterr().err

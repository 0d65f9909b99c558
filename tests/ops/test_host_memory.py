"""Settings of the C library's allocator."""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys

import pytest

from ofa_jax.cli import entry
from ofa_jax.ops import host_memory

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

# The same for the scratch memory of a program, which threads of JAX ask for.
COMPILED = """
import resource
from ofa_jax.ops.host_memory import keep_freed_memory, only_cpu
accepted = only_cpu() and keep_freed_memory()
import jax
import numpy as np
x = jax.device_put(np.eye(2048, dtype=np.float32))
program = jax.jit(lambda x: ((x @ x) @ x).sum())
for _ in range(2):
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    program(x).block_until_ready()
print(accepted, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
@pytest.mark.parametrize("program", [PROGRAM, COMPILED], ids=["numpy", "jax"])
def test_memory_is_reused(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    accepted, faults = done.stdout.split()
    assert accepted == "True"
    # 256 MiB are 65,536 pages; new ones would be touched each time.
    assert int(faults) < 1000


FREED = """
import pathlib
from ofa_jax.ops.host_memory import give_back_freed_memory, keep_freed_memory
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])
accepted = keep_freed_memory()
import numpy as np
pieces = [np.ones(1 << 17) for _ in range(256)]
last = np.ones(1)
del pieces
kept = resident()
give_back_freed_memory()
print(accepted, kept - resident())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_memory_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    accepted, pages = done.stdout.split()
    assert accepted == "True"
    # Of 256 MiB in pages of 4 KiB.
    assert int(pages) > 60_000


def test_nothing_is_given_back_where_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(host_memory, "_kept", False)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", None)
    host_memory.give_back_freed_memory()


def test_training_on_a_cpu_asks_for_it(monkeypatch, tmp_path, capsys):
    def asked():
        raise ValueError("memory is kept")

    monkeypatch.setattr("ofa_jax.ops.host_memory.keep_freed_memory", asked)
    settings = f"--gin.MODEL_DIR={tmp_path / 'run'}"
    assert entry.run_train(["--gin_file=gin_configs/runs/quickstart.gin", settings]) == 2
    assert "memory is kept" in capsys.readouterr().err


@pytest.mark.parametrize(("platforms", "expected"), [("cpu", True), ("cuda,cpu", False)])
def test_the_platform_is_told_without_starting_it(platforms, expected, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert host_memory.only_cpu() is expected
    monkeypatch.delenv("JAX_PLATFORMS")
    plugins = [importlib.metadata.EntryPoint("cuda", "jax_cuda", "jax_plugins")]
    for found in ([], plugins):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group, found=found: found)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert host_memory.only_cpu() is not bool(found)

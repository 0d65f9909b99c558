"""Settings of the C library's allocator."""

import platform
import subprocess
import sys

import pytest

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

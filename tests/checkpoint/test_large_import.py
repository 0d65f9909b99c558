"""A checkpoint of the largest released size, measured in a process of its own."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.model.config import SIZES

MEASURED = """
import json, resource, sys, time
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.exports import export_checkpoint
start = time.monotonic()
imported = import_checkpoint(sys.argv[1])
seconds = time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
params = imported.variables["params"]["token_embedding"]["embedding"]
result = {"import_s": seconds, "import_GiB": peak / 2**20, "width": imported.config.width,
          "sum": float(params[:2].sum())}
export_checkpoint(imported, sys.argv[2], "orbax")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result |= {"conversion_s": time.monotonic() - start, "conversion_GiB": peak / 2**20}
print(json.dumps(result))
"""


@pytest.mark.slow
def test_930m_half_precision_imports_in_two_minutes_and_8_gib(tmp_path):
    config = SIZES["huge"]
    weights = {
        name: np.full(shape, 0.25, np.float16) for name, shape in expected_shapes(config).items()
    }
    weights |= dict.fromkeys(SHARED_EMBEDDING, weights[SHARED_EMBEDDING[0]])
    source = tmp_path / "huge.pt"
    write_fairseq_checkpoint(source, weights)
    assert source.stat().st_size < 2.0 * 2**30
    del weights
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "ours")],
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
    finally:
        # pytest keeps the directories of past runs; gigabytes are too much for that.
        shutil.rmtree(tmp_path)
    measured = json.loads(done.stdout.splitlines()[-1])
    print(measured)
    assert measured["width"] == 1280
    assert measured["sum"] == 0.25 * 2 * 1280
    assert measured["import_s"] < 120
    assert measured["import_GiB"] < 8
    assert measured["conversion_GiB"] < 10

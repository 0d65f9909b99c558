"""The made-up run that the report's tests share."""

import pytest

from tests.report.synthetic_run import write_run


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", rows_per_task=32)

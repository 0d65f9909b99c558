"""The lock of a directory in a bucket, against a server of the storage protocol."""

import json
import os
import time

import pytest

from ofa_jax.errors import SettingsError
from ofa_jax.lock import DirectoryLock
from tests.storage_server import StorageServer

ADDRESS = "gs://bucket/runs/one/.lock"


@pytest.fixture
def storage(monkeypatch):
    gcsfs = pytest.importorskip("gcsfs", reason="pip install gcsfs")
    with StorageServer("bucket") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield server.storage
    gcsfs.GCSFileSystem.clear_instance_cache()


def locked(**options):
    from ofa_jax.checkpoint.bucket_lock import BucketFile

    return DirectoryLock(BucketFile(ADDRESS), "MODEL_DIR gs://bucket/runs/one", **options)


def written(storage):
    return json.loads(storage.read("bucket", "runs/one/.lock").content)


def names(storage):
    return [item["name"] for item in storage.list("bucket")["items"]]


def test_held_refused_and_given_back(storage):
    with locked():
        assert written(storage)["process"] == os.getpid()
        with (
            pytest.raises(SettingsError, match=rf"in use by process {os.getpid()} on "),
            locked(),
        ):
            pass
        assert written(storage)["process"] == os.getpid()
    assert names(storage) == []


def test_one_of_another_machine_is_watched(storage):
    holder = {"host": "elsewhere", "process": 7, "beat": 0}
    storage.write("bucket", "runs/one/.lock", json.dumps(holder).encode(), {})
    started = time.monotonic()
    with locked(beat_period=0.1, silent_after=0.5):
        assert time.monotonic() - started >= 0.5
        assert written(storage)["process"] == os.getpid()


def test_the_beat_is_written_over_its_own_generation_only(storage):
    with locked(beat_period=0.05) as held:
        until = time.monotonic() + 30
        while written(storage)["beat"] < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert written(storage)["beat"] >= 3
        held.check()
        storage.write("bucket", "runs/one/.lock", b'{"process": 7, "host": "elsewhere"}', {})
        held._thread.join(30)
        with pytest.raises(RuntimeError, match=r"taken over .* 7 on elsewhere"):
            held.check()
    assert written(storage)["process"] == 7


def test_two_that_saw_the_same_take_it_one_after_the_other(storage):
    from ofa_jax.checkpoint.bucket_lock import BucketFile

    first, second = BucketFile(ADDRESS), BucketFile(ADDRESS)
    _, mark = first.read()
    assert second.read() == (b"", mark)
    mine = first.replace(b"first", mark)
    assert mine is not None
    assert second.replace(b"second", mark) is None
    assert first.read() == (b"first", mine)
    # An answer that was lost: asked again, the bucket says that the object has changed.
    assert first.replace(b"first", mark) == mine
    assert second.replace(b"", mark) is None
    assert first.replace(b"", mine) is not None
    assert first.read()[0] == b""

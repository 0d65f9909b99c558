"""Prepared data in a bucket: what is read from our server of the protocol is what lies on disk."""

import collections
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ofa_jax import digest
from ofa_jax.checkpoint.bucket import file_system
from ofa_jax.data.batches.pipeline import MixturePipeline
from ofa_jax.data.preparation import manifest
from ofa_jax.data.preparation.summary import loss_of
from ofa_jax.data.sources import bucket_file
from ofa_jax.data.sources.array_record import PreparedSource, RecordError, shard_name, write_shard
from ofa_jax.data.sources.range_cache import RangeCache
from ofa_jax.data.steps import matching as matching_steps
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.inspection.opening import open_data
from ofa_jax.runs.settings import DatasetConfig
from tasks import instructions
from tests.data.batches.numbered import LENGTHS, SIZE, small_tokenizer
from tests.storage_server import ProtocolError, StorageServer

ADDRESS = "gs://bucket/data/set"
RECORDS, SHARDS = 90, 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        examples = [
            {
                "image": rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
                "image_id": str(n),
                "caption": "an image of a dog",
                "type": "caption" if n % 2 else "text",
                "text": rng.bytes(int(rng.integers(5, 20_000))).hex(),
            }
            for n in range(shard, RECORDS, SHARDS)
        ]
        write_shard(directory / shard_name("train", shard, SHARDS), examples)
    return directory


@pytest.fixture(scope="module")
def running():
    pytest.importorskip("gcsfs", reason="pip install gcsfs")
    with StorageServer("bucket") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        forget_connections()
        yield server
        forget_connections()


def forget_connections():
    """They may be to the server of another test."""
    bucket_file._connection_of.cache_clear()
    file_system().clear_instance_cache()


@pytest.fixture
def server(running, directory, monkeypatch):
    for name in (bucket_file.CACHE_VARIABLE, bucket_file.CACHE_SIZE_VARIABLE):
        monkeypatch.setenv(name, "")
    for path in directory.iterdir():
        running.storage.write("bucket", f"data/set/{path.name}", path.read_bytes(), {})
    yield running
    running.fault = lambda *place: None


def use_cache(monkeypatch, directory, size):
    monkeypatch.setenv(bucket_file.CACHE_VARIABLE, str(directory))
    monkeypatch.setenv(bucket_file.CACHE_SIZE_VARIABLE, str(size / 1e9))


def pipeline(directory, **options):
    task = OFATask(
        name="captions",
        family="captions",
        instructions=(Instruction.parse(instructions.CAPTIONING),),
        source=PreparedSource(str(directory)),
        tokenizer=small_tokenizer,
    )
    return MixturePipeline((task,), (1.0,), LENGTHS, batch_size=8, seed=3, **options)


def batches(directory, start, count, **options):
    iterator = pipeline(directory, **options).iterate(start)
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


class Faults:
    """One in three downloads fails once, each in the next way; every seventh is slow.

    Attributes:
      seen: how often each came.
    """

    KINDS = (503, 429, "broken", "short", 500)

    def __init__(self, pause=0.05):
        self.seen = collections.Counter()
        self._pause, self._asked, self._lock = pause, set(), threading.Lock()

    def __call__(self, *place):
        with self._lock:
            known, number = place in self._asked, len(self._asked)
            self._asked.add(place)
            fault = self.KINDS[number // 3 % len(self.KINDS)] if number % 3 == 0 else None
            if known or fault is None:
                self.seen["asked"] += 1
                fault = None
            else:
                self.seen[fault] += 1
        if number % 7 == 0:
            time.sleep(self._pause)
        return fault


def count_downloads(server):
    places = collections.Counter()
    server.fault = lambda *place: places.update([place])
    return places


def test_every_record_is_that_of_the_disk(server, directory):
    here, there = (
        PreparedSource(str(directory)).open("train"),
        PreparedSource(ADDRESS).open("train"),
    )
    assert there.ends == here.ends
    assert len(there) == RECORDS
    places = count_downloads(server)
    assert [there.record(n) for n in range(RECORDS)] == [here.record(n) for n in range(RECORDS)]
    # Requests are for the records alone: a little more than their bytes.
    fetched = sum(stop - start for _, start, stop in places)
    assert fetched < 1.02 * sum(len(here.record(n)) for n in range(RECORDS)) + 64 * RECORDS
    typed = PreparedSource(ADDRESS, types=("caption",)).open("train")
    of_disk = PreparedSource(str(directory), types=("caption",)).open("train")
    np.testing.assert_array_equal(typed.chosen, of_disk.chosen)


def test_records_of_all_sizes_around_blocks(server, tmp_path):
    """Headers of blocks stand at any place of a chunk, in its own header too."""
    sizes = [*range(65_380, 65_480, 3), 0, 1, 200_000, *range(2)]
    write_shard(tmp_path / shard_name("train", 0, 1), [{"text": "x" * size} for size in sizes])
    write_shard(tmp_path / shard_name("many", 0, 1), [{"text": f"{n}"} for n in range(30_000)])
    for path in tmp_path.iterdir():
        server.storage.write("bucket", f"sizes/{path.name}", path.read_bytes(), {})
    for split, step in (("train", 1), ("many", 701)):
        here = PreparedSource(str(tmp_path)).open(split)
        there = PreparedSource("gs://bucket/sizes/").open(split)
        assert there.ends == here.ends
        assert all(here.record(n) == there.record(n) for n in range(0, len(here), step))


def test_batches_equal_those_of_the_disk_with_faults(server, directory):
    expected = batches(directory, 0, 16)
    server.fault = faults = Faults()
    assert_equal(batches(ADDRESS, 0, 16, num_threads=8), expected)
    assert all(faults.seen[kind] for kind in Faults.KINDS)


def test_resuming_and_a_cache_smaller_than_the_data(server, directory, tmp_path, monkeypatch):
    limit = 1_000_000
    use_cache(monkeypatch, tmp_path / "cache", limit)
    expected = batches(directory, 0, 24)
    assert_equal(batches(ADDRESS, 0, 24, num_threads=4), expected)
    assert_equal(batches(ADDRESS, 11, 13, num_threads=2), expected[11:])
    [file] = (tmp_path / "cache").glob("*.sqlite")
    assert limit / 4 < file.stat().st_size <= limit


def test_a_warm_cache_asks_for_no_record(server, directory, tmp_path, monkeypatch):
    use_cache(monkeypatch, tmp_path, 100_000_000)
    expected = batches(ADDRESS, 0, 12)
    places = count_downloads(server)
    assert_equal(batches(ADDRESS, 0, 12), expected)
    assert not places


def test_records_of_a_batch_come_together(server, monkeypatch):
    at_once = collections.Counter()
    lock = threading.Lock()

    def slow(*place):
        with lock:
            at_once["now"] += 1
            at_once["most"] = max(at_once["most"], at_once["now"])
        time.sleep(0.05)
        with lock:
            at_once["now"] -= 1

    server.fault = slow
    monkeypatch.setenv(bucket_file.READ_AHEAD_VARIABLE, "4")
    bucket_file._connection_of.cache_clear()
    pipeline(ADDRESS).batch(0)
    bucket_file._connection_of.cache_clear()
    assert at_once["most"] == 4


def test_a_shard_written_anew_is_noticed(server, directory):
    reading = pipeline(ADDRESS)
    reading.batch(0)
    for path in directory.iterdir():
        server.storage.write("bucket", f"data/set/{path.name}", path.read_bytes(), {})
    copy = pickle.loads(pickle.dumps(reading._reader))  # as a worker has it
    line = r"^gs://bucket/data/set/\S+ was written anew while it was read \(generation \d+ is gone"
    with pytest.raises(bucket_file.BucketError, match=line):
        collections.deque(map(copy, range(1, 12)))


def test_an_answer_that_does_not_come_is_asked_for_again(server, directory, monkeypatch):
    aiohttp = pytest.importorskip("aiohttp")
    records = PreparedSource(ADDRESS).open("train")
    files = bucket_file._connection().files
    monkeypatch.setattr(files, "requests_timeout", aiohttp.ClientTimeout(total=0.2))
    asked = []

    def hanging_at_first(*place):
        asked.append(place)
        if len(asked) == 1:
            time.sleep(1)

    server.fault = hanging_at_first
    assert records.record(7) == PreparedSource(str(directory)).open("train").record(7)
    assert len(asked) == 2


def test_an_answer_without_end_of_faults_is_one_line(server, monkeypatch):
    records = PreparedSource(ADDRESS).open("train")
    monkeypatch.setattr(bucket_file, "_PATIENCE", 0.5)
    server.fault = lambda *place: "short"
    with pytest.raises(bucket_file.BucketError, match=r"^gs://\S+: .*came of"):
        records.record(0)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("gs://nothing/data/set", "^DATA_DIR gs://nothing: there is no such bucket$"),
        ("gs://bucket/data/other", "gs://bucket/data/other does not exist; it should hold"),
        ("gs://bucket", "is no address of a directory"),
        ("s3://bucket/data", "no driver makes s3://"),
    ],
)
def test_what_is_not_there_is_one_line(server, address, line):
    with pytest.raises(ValueError, match=line) as raised:
        PreparedSource(address).open("train")
    assert "\n" not in str(raised.value)


def test_no_permission_and_no_driver(server, monkeypatch):
    def forbidden(*arguments, **options):
        raise ProtocolError(403)

    monkeypatch.setattr(server.storage, "list", forbidden)
    with pytest.raises(ValueError, match=r"^DATA_DIR gs://bucket: .*permission"):
        PreparedSource(ADDRESS).open("train")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="gcsfs: pip install"):
        PreparedSource(ADDRESS).open("train")


def test_a_missing_and_a_damaged_shard(server, directory):
    name = f"data/set/{shard_name('train', 1, SHARDS)}"
    content = server.storage.read("bucket", name).content
    for damaged in (content[:-1], content[: len(content) // 2], bytes(len(content)), b""):
        server.storage.write("bucket", name, damaged, {})
        with pytest.raises(RecordError, match=r"cut off .*ArrayRecord"):
            PreparedSource(ADDRESS).open("train")
    server.storage.delete("bucket", name)
    with pytest.raises(ValueError, match=f"lacks {shard_name('train', 1, SHARDS)}"):
        PreparedSource(ADDRESS).open("train")


def test_manifest_and_identity(server):
    text = '{"splits": {"train": {"examples": 30, "dropped": {"bad": {"count": 90}}}}}'
    server.storage.write("bucket", "data/set/manifest.json", text.encode(), {})
    assert manifest.of_directory(ADDRESS)["splits"]["train"]["examples"] == 30
    assert manifest.of_directory("gs://bucket/data/none") is None
    source = PreparedSource(ADDRESS)
    assert "dropped 90 of 120 records" in loss_of(source, source.open("train"), "train")
    before = digest.identities(source.data_files("train"))
    server.storage.write("bucket", f"data/set/{shard_name('train', 0, SHARDS)}", b"new", {})
    after = digest.identities(source.data_files("train"))
    assert len(before) == SHARDS
    [change] = digest.differences(before, after)
    assert change.startswith(f"{ADDRESS}/{shard_name('train', 0, SHARDS)} has changed")


def test_inspection_opens_it(server, monkeypatch):
    monkeypatch.setenv("OFA_DATA_DIR", "gs://bucket/data/")
    server.storage.write("bucket", "data/preparation/negative_sample/object.txt", b"dog\n cat ", {})
    opened = open_data("{DATA_DIR}/set")
    assert (opened.name, opened.split, len(opened.records)) == ("set", "train", RECORDS)
    assert ("shards", str(SHARDS)) in opened.facts
    assert matching_steps._lines("{DATA_DIR}/negative_sample", "object.txt") == ("dog", "cat")
    with pytest.raises(ValueError, match=r"^gs://bucket/data/+none .*not exist"):
        open_data("{DATA_DIR}/none")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bucket_cache_gb", -1), ("bucket_read_ahead", 0), ("bucket_cache", "gs://bucket/cache")],
)
def test_settings_that_cannot_be(setting, value):
    with pytest.raises(ValueError, match=rf"DatasetConfig\.{setting} must be"):
        DatasetConfig("mixture", LENGTHS, 8, **{setting: value})


def test_settings_reach_worker_processes(monkeypatch, tmp_path):
    for name in ("CACHE", "CACHE_GB", "READ_AHEAD"):
        monkeypatch.setenv(f"OFA_BUCKET_{name}", "7")
    DatasetConfig("mixture", LENGTHS, 8).configure_buckets()
    assert os.environ["OFA_BUCKET_READ_AHEAD"] == "7"
    settings = {"bucket_cache": str(tmp_path), "bucket_cache_gb": 0.5, "bucket_read_ahead": 9}
    DatasetConfig("mixture", LENGTHS, 8, **settings).configure_buckets()
    cache = bucket_file._cache()
    assert (cache.path.parent, cache.limit) == (tmp_path, 500_000_000)
    assert os.environ["OFA_BUCKET_READ_AHEAD"] == "9"


def test_the_cache_drops_what_was_not_used_for_longest(tmp_path):
    cache = RangeCache(tmp_path, 1_000_000)
    for number in range(40):
        cache.put(str(number), bytes([number]) * 50_000)
        assert cache.get("0") == bytes(50_000)
    assert cache.get("39") == bytes([39]) * 50_000
    assert cache.get("5") is None
    assert cache.path.stat().st_size <= 1_000_000
    smaller = RangeCache(tmp_path, 400_000)
    smaller.put("new", bytes(50_000))
    assert smaller.get("new") == bytes(50_000)
    del cache, smaller
    assert (tmp_path / "ranges.sqlite").stat().st_size <= 1_000_000


def test_a_cache_that_is_no_database_is_left_alone(tmp_path, caplog):
    (tmp_path / "ranges.sqlite").write_bytes(b"no database at all" * 1000)
    cache = RangeCache(tmp_path, 1_000_000)
    cache.put("a", b"1")
    assert cache.get("a") is None
    assert "cannot be used" in caplog.text
    assert len(caplog.records) == 1


_WRITER = """
import sys
from ofa_jax.data.sources.range_cache import RangeCache
cache = RangeCache(sys.argv[1], 2_000_000)
print("go", flush=True)
for number in range(10**9):
    key = str(number * 7919 % 200)
    found = cache.get(key)
    assert found is None or found == key.encode() * 10_000
    cache.put(key, key.encode() * 10_000)
    assert not cache._gave_up
"""


def test_the_cache_outlives_killed_processes(tmp_path):
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}
    for pause in (0.0, 0.3):
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(3)
        ]
        for process in processes:
            assert process.stdout.readline() == b"go\n"
        time.sleep(pause)
        for process in processes:
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
    cache = RangeCache(tmp_path, 2_000_000)
    cache.put("whole", b"1")
    connection = cache._connection()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    contents = connection.execute("SELECT key, content FROM uses JOIN contents USING (id)")
    found = dict(contents.fetchall())
    assert found.pop("whole") == b"1"
    assert found
    assert all(content == key.encode() * 10_000 for key, content in found.items())


@pytest.mark.slow
def test_eight_worker_processes_with_faults(server, directory, tmp_path, monkeypatch):
    use_cache(monkeypatch, tmp_path / "cache", 1_500_000)
    expected = batches(directory, 0, 40)
    server.fault = faults = Faults()
    assert_equal(batches(ADDRESS, 0, 40, num_workers=8), expected)
    assert_equal(batches(ADDRESS, 17, 23, num_workers=8), expected[17:])
    assert all(faults.seen[kind] for kind in Faults.KINDS)

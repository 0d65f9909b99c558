"""How processes find each other: the environments of launchers, and incomplete ones."""

import concurrent.futures
import threading
import types

import jax
import pytest

from ofa_jax.runs import hosts
from ofa_jax.runs.hosts import host_settings, initialize_distributed

PLAIN = {"COORDINATOR_ADDRESS": "10.0.0.1:1234", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_one_process_needs_nothing():
    assert host_settings({}) is None
    assert host_settings({"SLURM_JOB_ID": "7"}) is None, "a shell on a node of SLURM"
    assert host_settings(SLURM | {"SLURM_NTASKS": "1"}) is None
    assert host_settings({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


@pytest.mark.parametrize("prefix", ["", "JAX_"])
def test_plain_variables(prefix):
    environment = {prefix + name: value for name, value in PLAIN.items()}
    settings = host_settings(environment | {prefix + "LOCAL_DEVICE_IDS": "0,1"})
    assert settings.source == "plain variables"
    assert settings.arguments == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
        "local_device_ids": [0, 1],
    }


def test_slurm_and_tpu_pods():
    assert host_settings(SLURM).source == "SLURM"
    assert host_settings(SLURM | PLAIN).source == "plain variables"
    assert host_settings({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}).source == "TPU"
    one_host_slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}
    assert host_settings(one_host_slices).source == "TPU"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NUM_PROCESSES": ""}, "NUM_PROCESSES is not set"),
        ({"COORDINATOR_ADDRESS": "", "PROCESS_ID": ""}, "COORDINATOR_ADDRESS, PROCESS_ID is not"),
        ({"NUM_PROCESSES": "two"}, "NUM_PROCESSES must be a whole number, got 'two'"),
        ({"PROCESS_ID": "4"}, "PROCESS_ID 4 is none of the 4 processes 0 to 3"),
        ({"COORDINATOR_ADDRESS": "node1"}, "must be host:port, got 'node1'"),
    ],
)
def test_incomplete_variables(changes, message):
    with pytest.raises(ValueError, match=message):
        host_settings(PLAIN | changes)


def test_initialization_passes_what_was_found(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    monkeypatch.setattr(hosts.HostWatch, "start", lambda self: None)
    initialize_distributed({})
    initialize_distributed(PLAIN | {"NUM_PROCESSES": "1", "PROCESS_ID": "0"})
    assert calls == []
    initialize_distributed(SLURM)
    assert calls == [{"cluster_detection_method": "slurm", "heartbeat_timeout_seconds": 55}]


def test_hosts_that_cannot_be_reached(monkeypatch):
    def fail(**given):
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match=r"plain variables.*DEADLINE_EXCEEDED"):
        initialize_distributed(PLAIN)


def test_a_lost_host_ends_the_process_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    statuses = []

    def leave(status):
        statuses.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(hosts.os, "_exit", leave)
    with pytest.raises(SystemExit), hosts.lost_hosts_end_the_process():
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer\nmore")
    assert statuses == [75]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: process 0 of 2 lost another host and ends (Gloo all-reduce fai")
    assert "start all of them again with the same command" in line
    # What is no such failure keeps its own message.
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"),
        hosts.lost_hosts_end_the_process(),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


class Store:
    """The coordinator's key-value store, which may go away."""

    def __init__(self):
        self.values, self.gone = {}, False

    def key_value_set(self, key, value, allow_overwrite):
        if self.gone:
            raise RuntimeError("UNAVAILABLE")
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, directory):
        return [(key, value) for key, value in self.values.items() if key.startswith(directory)]


def test_a_silent_host_is_noticed():
    store, now, reasons = Store(), [0.0], []
    first, second = (
        hosts.HostWatch(store, process, 2, lost=reasons.append, clock=lambda: now[0])
        for process in (0, 1)
    )
    for _ in range(20):
        now[0] += 10.0
        assert first.look()
        assert second.look()
    # Process 1 is gone; its last sign is seen in the first round.
    for _ in range(hosts.LOST_AFTER // 10 + 1):
        now[0] += 10.0
        assert reasons == []
        still_there = first.look()
    assert not still_there
    assert reasons == ["process 1 has been silent for 40 s"]


def test_a_silent_coordinator_is_noticed():
    store, now, reasons = Store(), [0.0], []
    watch = hosts.HostWatch(store, 1, 2, lost=reasons.append, clock=lambda: now[0])
    store.values["ofa_host/0"] = "1"
    assert watch.look()
    store.gone = True
    now[0] += hosts.LOST_AFTER - 1.0
    assert watch.look(), "one failure is no loss"
    now[0] += 1.0
    assert not watch.look()
    assert reasons == ["process 0 does not answer: UNAVAILABLE"]


def test_waiting_asks_the_coordinator_at_a_place_of_its_own(monkeypatch):
    places = []

    class Client:
        def wait_at_barrier(self, place, milliseconds):
            places.append(place)
            assert milliseconds > 60_000, "longer than a program compiles"

    state = types.SimpleNamespace(client=Client())
    monkeypatch.setattr(hosts.jax_distributed, "global_state", state)
    hosts.wait_for_all("nobody else is there")
    assert places == []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for _ in range(2):
        hosts.wait_for_all("the step is compiled")
    assert len(set(places)) == 2
    assert all(place.endswith("_the_step_is_compiled") for place in places)


def test_all_processes_get_the_same_answer_at_the_same_question(monkeypatch):
    """JAX answers at one number only, and wants the same numbers everywhere."""
    asked = []

    def reached(number):
        asked.append(number)
        return number == 3

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "reached_preemption_sync_point", reached)
    stop_requested = hosts.stop_question(hosts.preemption_handler())
    assert [stop_requested() for _ in range(5)] == [False, False, True, True, True]
    assert asked == [1, 2, 3]


class Shared:
    """The coordinator of processes that are threads here."""

    def __init__(self, count):
        self.values, self._together = {}, threading.Barrier(count)

    def key_value_set(self, key, value):
        self.values[key] = value

    def key_value_dir_get(self, directory):
        return [(key, value) for key, value in self.values.items() if key.startswith(directory)]

    def wait_at_barrier(self, place, milliseconds):
        self._together.wait(30)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["RANDOM_SEED = 0", "utils.X.keep = 2"], ""),
        (
            ["RANDOM_SEED = 1", "utils.X.keep = 2"],
            "started with RANDOM_SEED = 1, process 0 with RANDOM_SEED = 0; all",
        ),
        (["RANDOM_SEED = 0"], "process 1 was started with less, process 0 with utils.X.keep = 2"),
        (["RANDOM_SEED = 0", "utils.X.keep = 2", "utils.X.bucket_cache = '/tmp'"], ""),
    ],
    ids=["equal", "seed", "missing", "directory of a machine"],
)
def test_hosts_with_other_settings_are_refused_by_name(monkeypatch, second, message):
    state = types.SimpleNamespace(client=Shared(2))
    process = threading.local()
    monkeypatch.setattr(hosts.jax_distributed, "global_state", state)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process.index)
    # Each process counts the places that it comes to.
    monkeypatch.setattr(hosts, "_new_place", lambda name: f"ofa_{name}")

    def start(index):
        process.index = index
        try:
            hosts.require_same_settings((["RANDOM_SEED = 0", "utils.X.keep = 2"], second)[index])
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        said = list(pool.map(start, range(2)))
    assert said[0] == said[1]
    assert message in said[0]
    assert bool(said[0]) == bool(message)

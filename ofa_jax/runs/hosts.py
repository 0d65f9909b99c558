"""Many hosts: finding each other at the start, stopping together, ending when one is lost."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

from ofa_jax.checkpoint.errors import CheckpointError
from ofa_jax.errors import SettingsError, Status
from ofa_jax.sharding.mesh import require_devices
from ofa_jax.training.preemption import PreemptionHandler

logger = logging.getLogger("ofa_jax")

# Seconds without a sign of life after which a host counts as lost: for our own watch, and for
# JAX's, which ends the process with a stack trace and therefore comes second.
LOST_AFTER = 40
HEARTBEAT_TIMEOUT = 55
_SIGN_PERIOD = 3.0
# Seconds for which the processes wait for each other while all of them give signs of life.
_LONGEST_WAIT = 2 * 3600
_PLACES = itertools.count()
_PLAIN = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
_SLURM = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclasses.dataclass(frozen=True)
class HostSettings:
    """How this process finds the others.

    Attributes:
      source: "plain variables", "SLURM" or "TPU".
      arguments: of `jax.distributed.initialize`; what is left out, JAX finds itself.
    """

    source: str
    arguments: Mapping[str, Any]


def host_settings(environment: Mapping[str, str]) -> HostSettings | None:
    """Reads the environment of a launcher.

    Plain variables go first: COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and
    PROCESS_ID, each also with the prefix JAX_, and LOCAL_DEVICE_IDS ("0,1") where processes share
    a machine. Then `srun` of SLURM, then a TPU pod (TPU_WORKER_HOSTNAMES with several hosts, or
    several slices).

    Args:
      environment: `os.environ`.

    Returns:
      The settings, or None where there is one process.

    Raises:
      ValueError: plain variables that are incomplete or no numbers.
    """
    given = {
        name: environment.get(name) or environment.get(f"JAX_{name}")
        for name in (*_PLAIN, "LOCAL_DEVICE_IDS")
    }
    if any(given[name] for name in _PLAIN):
        return _plain_settings(given)
    if all(environment.get(name) for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return HostSettings("SLURM", {"cluster_detection_method": "slurm"})
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    if "," in hosts or slices not in ("", "1"):
        return HostSettings("TPU", {})
    return None


def _plain_settings(given: Mapping[str, str | None]) -> HostSettings:
    missing = [name for name in _PLAIN if not given[name]]
    if missing:
        raise ValueError(
            f"several hosts need {', '.join(_PLAIN)} in the environment; {', '.join(missing)} "
            "is not set"
        )
    numbers = {}
    for name in ("NUM_PROCESSES", "PROCESS_ID"):
        if not str(given[name]).isdigit():
            raise ValueError(f"{name} must be a whole number, got {given[name]!r}")
        numbers[name] = int(str(given[name]))
    count, index = numbers["NUM_PROCESSES"], numbers["PROCESS_ID"]
    if not index < count:
        raise ValueError(f"PROCESS_ID {index} is none of the {count} processes 0 to {count - 1}")
    if ":" not in str(given["COORDINATOR_ADDRESS"]):
        raise ValueError(
            f"COORDINATOR_ADDRESS must be host:port, got {given['COORDINATOR_ADDRESS']!r}"
        )
    arguments: dict[str, Any] = {
        "coordinator_address": given["COORDINATOR_ADDRESS"],
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }
    if given["LOCAL_DEVICE_IDS"]:
        arguments["local_device_ids"] = [int(part) for part in given["LOCAL_DEVICE_IDS"].split(",")]
    return HostSettings("plain variables", arguments)


def initialize_distributed(environment: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of a run; does nothing where there is one. Once, before any array.

    Args:
      environment: see `host_settings`; None reads `os.environ`.

    Raises:
      ValueError: see `host_settings`; or the others cannot be reached, or no device.
    """
    settings = host_settings(os.environ if environment is None else environment)
    if settings is None or settings.arguments.get("num_processes") == 1:
        require_devices()
        return
    try:
        jax.distributed.initialize(
            **settings.arguments, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT
        )
    except RuntimeError as error:
        raise SettingsError(
            f"the other processes (from {settings.source}) cannot be reached: {error}"
        ) from error
    require_devices()
    logger.info(
        "process %d of %d (from %s), %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        settings.source,
        jax.local_device_count(),
        jax.device_count(),
    )
    # JAX has no public name for the store that its processes share.
    client = jax_distributed.global_state.client
    HostWatch(client, jax.process_index(), jax.process_count()).start()
    _end_where_jax_aborts()
    if jax.process_index():
        # What all processes know, one says.
        logger.setLevel(logging.WARNING)


class HostWatch:
    """Notices that another host is gone, even while this one waits for it in a collective.

    Every process counts up a number in the coordinator's store and looks at those of the others.
    """

    def __init__(
        self,
        client: Any,
        process: int,
        count: int,
        *,
        lost: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watches nothing yet.

        Args:
          client: of the coordinator's key-value store.
          process: index of this process.
          count: of all processes.
          lost: called once with the reason; None ends the process.
          clock: seconds.
        """
        self._client, self._process, self._count = client, process, count
        self._lost, self._clock = lost or _end, clock
        self._signs = 0
        now = clock()
        self._seen = {other: ("", now) for other in range(count) if other != process}
        self._answered = now

    def start(self) -> None:
        """Watches in a thread of its own until the process ends."""
        threading.Thread(target=self._watch, name="host watch", daemon=True).start()

    def _watch(self) -> None:
        while self.look():
            time.sleep(_SIGN_PERIOD)

    def look(self) -> bool:
        """Gives a sign of life and looks for those of the others; False once a host is lost."""
        now = self._clock()
        try:
            self._signs += 1
            self._client.key_value_set(
                f"ofa_host/{self._process}", str(self._signs), allow_overwrite=True
            )
            found = {
                name.rpartition("/")[2]: value
                for name, value in self._client.key_value_dir_get("ofa_host")
            }
            self._answered = now
        except Exception as error:
            # The store lives in process 0.
            if now - self._answered < LOST_AFTER:
                return True
            self._lost(f"process 0 does not answer: {error}")
            return False
        for other, (value, since) in self._seen.items():
            sign = found.get(str(other), "")
            if sign != value:
                self._seen[other] = (sign, now)
            elif now - since >= LOST_AFTER:
                self._lost(f"process {other} has been silent for {now - since:.0f} s")
                return False
        return True


def preemption_handler() -> PreemptionHandler:
    """Catches the signals that ask to stop; with several processes JAX itself catches SIGTERM."""
    return PreemptionHandler() if jax.process_count() == 1 else PreemptionHandler(signals=())


def stop_question(handler: PreemptionHandler) -> Callable[[], bool]:
    """The question whether to stop, asked after every step and every batch of an evaluation.

    Args:
      handler: from `preemption_handler`, entered.

    Returns:
      What is asked. All processes ask equally often and get the same answer, which stays.
    """
    if jax.process_count() == 1:
        return lambda: handler.requested
    questions, stopping = itertools.count(1), False

    def ask() -> bool:
        nonlocal stopping
        # JAX answers yes at one question, the next that no process has come to yet.
        stopping = stopping or multihost_utils.reached_preemption_sync_point(next(questions))
        return stopping

    return ask


def on_every_host(variables: Any) -> Any:
    """Arrays that this process can read alone: the whole of arrays that are spread over hosts."""
    if jax.process_count() == 1:
        return variables
    return multihost_utils.process_allgather(variables, tiled=True)


def of_primary(value: int) -> int:
    """A whole number of process 0, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Returns when every process has come here, however long after this one.

    Asks the coordinator. A collective is no way to wait: on CPUs its processes give each other half
    a minute, and to compile a program can take one of them longer than that.

    Args:
      name: of the place, the same on all processes, which come to all places in the same order.
    """
    if jax.process_count() > 1:
        _coordinator().wait_at_barrier(_new_place(name), _LONGEST_WAIT * 1000)


def _new_place(name: str) -> str:
    return f"ofa_{next(_PLACES)}_{name.replace(' ', '_')}"


def _coordinator() -> Any:
    client = jax_distributed.global_state.client
    assert client is not None, "several processes without a coordinator"
    return client


@contextlib.contextmanager
def agreed(name: str) -> Iterator[None]:
    """What one process finds wrong, before the run starts, ends all of them with its message.

    Args:
      name: of the place, see `wait_for_all`.

    Raises:
      SettingsError: a mistake that another process has found.
    """
    mistake = ""
    try:
        yield
    except (ValueError, OSError, CheckpointError) as error:
        if jax.process_count() == 1:
            raise
        mistake = str(error)
    if jax.process_count() > 1:
        place, client = _new_place(name), _coordinator()
        client.key_value_set(f"{place}/{jax.process_index()}", f"={mistake}")
        wait_for_all(name)
        found = client.key_value_dir_get(place)
        # The process that keeps these values may not end before all have read them.
        wait_for_all(name)
        for _, text in sorted(found):
            if text != "=":
                raise SettingsError(text[1:])


def require_same_settings(settings: Sequence[str]) -> None:
    """Fails on all processes where one was started with other settings than process 0.

    Args:
      settings: a line NAME = VALUE for each. Directories of one machine are not compared.

    Raises:
      SettingsError: names the process and what it has and has not.
    """
    if jax.process_count() == 1:
        return
    place, client = _new_place("settings"), _coordinator()
    own = [line for line in settings if "bucket_cache" not in line]
    client.key_value_set(f"{place}/{jax.process_index()}", "\n".join(own))
    wait_for_all("settings are written")
    found = {
        int(name.rpartition("/")[2]): text.splitlines()
        for name, text in client.key_value_dir_get(place)
    }
    # As in `agreed`.
    wait_for_all("settings are read")
    for process, other in sorted(found.items()):
        added = [line for line in other if line not in found[0]]
        missing = [line for line in found[0] if line not in other]
        if added or missing:
            theirs, ours = (", ".join(lines[:3])[:300] or "less" for lines in (added, missing))
            raise SettingsError(
                f"process {process} was started with {theirs}, process 0 with {ours}; all "
                "processes of a run need the same settings"
            )


@contextlib.contextmanager
def lost_hosts_end_the_process() -> Iterator[None]:
    """Ends this process with one clear line where another one is gone.

    Nothing is waited for: whatever needs the others (a checkpoint being written, the goodbye at
    exit) would never come. The checkpoints that are complete stay.
    """
    try:
        yield
    except RuntimeError as error:  # JAX's own are some of these.
        end_if_lost(error)
        raise


def end_if_lost(error: BaseException) -> None:
    """Ends this process, see above, where an error says that another host is gone."""
    is_ours = isinstance(error, RuntimeError) and _is_connection_error(str(error))
    if is_ours and jax.process_count() > 1:
        _end(str(error))


_SignalHandler = ctypes.CFUNCTYPE(None, ctypes.c_int)


@_SignalHandler
def _aborted(number: int) -> None:
    _end("JAX aborts it, as it says above")


def _end_where_jax_aborts() -> None:
    """Ends this process with the line and the status of `_end` where JAX would abort it.

    The threads of JAX that ask process 0 for errors abort a process in C++ as soon as process 0 is
    gone, often before anything else notices; neither a callback nor a handler of Python's `signal`
    comes before that.
    """
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        library.signal.argtypes = [ctypes.c_int, _SignalHandler]
        library.signal.restype = ctypes.c_void_p
        library.signal(signal.SIGABRT, _aborted)


def _is_connection_error(message: str) -> bool:
    signs = "gloo connection unavailable deadline heartbeat nccl aborted peer"
    return any(sign in message.lower() for sign in signs.split())


def _end(reason: str) -> NoReturn:
    lines = reason.strip().splitlines() or ["no reason given"]
    sys.stdout.flush()
    print(
        f"error: process {jax.process_index()} of {jax.process_count()} lost another host and "
        f"ends ({lines[0][:200]}); start all of them again with the same command, the run goes on "
        "from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(Status.UNFINISHED)

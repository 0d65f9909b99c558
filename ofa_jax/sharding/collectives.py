"""Which collectives a compiled program runs, how often, and how many bytes they move.

Reads the text of a partitioned program (`compiled.as_text()`). Collectives inside loops, such as
the scan over layers, are counted as often as the loop runs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4}
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r" while\(.*\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: one of `KINDS`.
      bytes: of its result on one device.
      times: how often a step runs it.
      group: devices that take part together.
      axes: mesh axes along which they lie.
    """

    kind: str
    bytes: int
    times: int
    group: int
    axes: tuple[str, ...]

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends in one step, with ring algorithms."""
        others = self.group - 1
        factor = {
            "all-reduce": 2 * others / self.group,
            "reduce-scatter": others,
            "collective-permute": 1.0,
        }.get(self.kind, others / self.group)
        return self.bytes * factor * self.times


def program_collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """The collectives of a program.

    Args:
      text: of the compiled, partitioned program.
      mesh: size by axis, in the order of the devices.

    Returns:
      One entry per instruction that moves data between devices.
    """
    computations = _computations(text)
    times = _times(computations)
    found = []
    for name, lines in computations.items():
        for line in lines:
            match = _OPERATION.search(line)
            if not match or not times.get(name):
                continue
            group, axes = _group(line, mesh)
            if group > 1:
                size = _result_bytes(line, match, group)
                found.append(Collective(match[1], size, times[name], group, axes))
    return found


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind along the same axes in one step, per device.

    Attributes:
      kind: one of `KINDS`.
      group: devices that take part together.
      axes: mesh axes along which they lie.
      times: how many there are.
      bytes: of all their results.
      wire_bytes: sent by each device.
    """

    kind: str
    group: int
    axes: tuple[str, ...]
    times: int
    bytes: int
    wire_bytes: float


def summarise(collectives: Iterable[Collective]) -> list[Traffic]:
    """Adds up collectives of the same kind, axes and group, largest first."""
    grouped: dict[tuple, list[Collective]] = {}
    for one in collectives:
        grouped.setdefault((one.kind, one.group, one.axes), []).append(one)
    result = [
        Traffic(
            *key,
            times=sum(one.times for one in members),
            bytes=sum(one.bytes * one.times for one in members),
            wire_bytes=sum(one.wire_bytes for one in members),
        )
        for key, members in grouped.items()
    ]
    return sorted(result, key=lambda traffic: -traffic.wire_bytes)


def _computations(text: str) -> dict[str, list[str]]:
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line[:1] not in ("", " ", "}") and (match := _COMPUTATION.match(line)):
            lines = []
            computations["ENTRY" if match[1] else match[2]] = lines
        else:
            lines.append(line)
    return computations


def _times(computations: Mapping[str, list[str]]) -> dict[str, int]:
    """How often each computation runs in one run of the program."""
    edges: dict[str, list[tuple[str, int]]] = {}
    for name, lines in computations.items():
        edges[name] = []
        for line in lines:
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [part.strip().lstrip("%") for part in branches.split(",")]
            body = _BODY.search(line)
            for child in called:
                trips = 1
                if body and child == body[1]:
                    known = _TRIPS.search(line)
                    trips = int(known[1]) if known else 1
                if child in computations and "-done(" not in line:
                    edges[name].append((child, trips))
    # HLO lists a computation before those that call it, so callers come last.
    times = dict.fromkeys(computations, 0)
    if "ENTRY" in times:
        times["ENTRY"] = 1
    for name in _callers_first(edges):
        for child, trips in edges[name]:
            times[child] += times[name] * trips
    return times


def _callers_first(edges: Mapping[str, Sequence[tuple[str, int]]]) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()
    # Depth first without recursion, since programs nest deeply.
    stack = [("ENTRY", False)] if "ENTRY" in edges else []
    while stack:
        name, finished = stack.pop()
        if finished:
            order.append(name)
        elif name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack.extend((child, False) for child, _ in edges[name])
    return order[::-1]


def _result_bytes(line: str, match: re.Match[str], group: int) -> int:
    total = 0
    for kind, shape in _ARRAY.findall(line[line.index(" = ") + 3 : match.start()]):
        digits = re.sub(r"^[a-z]+", "", kind)
        bits = _BITS.get(kind) or int(re.match(r"\d+", digits)[0])  # type: ignore[index]
        total += math.prod(int(part) for part in shape.split(",") if part) * bits // 8
    if match[2]:
        # The start of an asynchronous collective names its operands beside its results.
        if match[1] == "all-gather":
            return total * group // (group + 1)
        if match[1] == "collective-permute":
            return total // 2
        if match[1] == "reduce-scatter":
            return total // (group + 1)
    return total


def _group(line: str, mesh: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    sizes = tuple(mesh.values())
    if match := _IOTA.search(line):
        dims = [int(part) for part in match[3].split(",")]
        ids = np.arange(math.prod(dims)).reshape(dims)
        if match[4]:
            ids = ids.transpose([int(part) for part in match[4].split(",")])
        members = ids.reshape(int(match[1]), int(match[2]))[0]
    elif match := _LISTED.search(line):
        members = np.array([int(part) for part in match[1].split(",")])
    elif match := _PAIRS.search(line):
        pairs = [[int(end) for end in pair] for pair in re.findall(r"(\d+),(\d+)", match[1])]
        # A device that keeps its own part stands for nobody.
        members = np.array(next((pair for pair in pairs if pair[0] != pair[1]), [0]))
    else:
        members = np.arange(math.prod(sizes))  # "replica_groups={}" is all devices
    if members.max(initial=0) >= math.prod(sizes):
        return len(members), ()
    places = np.unravel_index(members, sizes)
    axes = tuple(axis for axis, place in zip(mesh, places, strict=True) if len(set(place)) > 1)
    return len(members), axes

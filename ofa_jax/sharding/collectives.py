"""Which collectives a compiled program runs, how often, and how many bytes they move.

Reads the text of a partitioned program (`compiled.as_text()`). Collectives inside loops, such as
the scan over layers, are counted as often as the loop runs. The TPU compiler cuts a collective that
overlaps with computation into pieces, one in each of several fusions; they count once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

OPERATIONS = (
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
_OPERATION = re.compile(rf" ({'|'.join(OPERATIONS)})(-start)?\(")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r" while\(.*\bbody=%?([\w.\-]+)")
_CONDITION = re.compile(r" while\(.*\bcondition=%?([\w.\-]+)")
_BOUND = re.compile(r"^ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CONSTANT = re.compile(r"^%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_PIECE = re.compile(r"channel_id=(\d+),.*\basync_collective_fusion_config\b")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")
_NAMED_SIZE = re.compile(r"'([^']+)'=(\d+)")
_NAMED_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      operation: one of `OPERATIONS`.
      bytes: of its result on one device.
      times: how often a step runs it.
      group: devices that take part together.
      axes: mesh axes along which they lie.
    """

    operation: str
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
        }.get(self.operation, others / self.group)
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
    counted = set()
    for name, lines in computations.items():
        for line in lines:
            match = _OPERATION.search(line)
            if not match or not times.get(name):
                continue
            if piece := _PIECE.search(line):
                if (match[1], piece[1]) in counted:
                    continue
                counted.add((match[1], piece[1]))
            group, axes = _group(line, mesh)
            if group > 1:
                size = _result_bytes(line, match, group)
                found.append(Collective(match[1], size, times[name], group, axes))
    return found


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one operation along the same axes in one step, per device.

    Attributes:
      operation: one of `OPERATIONS`.
      group: devices that take part together.
      axes: mesh axes along which they lie.
      times: how many there are.
      bytes: of all their results.
      wire_bytes: sent by each device.
    """

    operation: str
    group: int
    axes: tuple[str, ...]
    times: int
    bytes: int
    wire_bytes: float


def summarise(collectives: Iterable[Collective]) -> list[Traffic]:
    """Adds up collectives of the same operation, axes and group, largest first."""
    grouped: dict[tuple, list[Collective]] = {}
    for one in collectives:
        grouped.setdefault((one.operation, one.group, one.axes), []).append(one)
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
                    trips = int(known[1]) if known else _trips(line, computations)
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


def _trips(line: str, computations: Mapping[str, list[str]]) -> int:
    """How often a loop runs by its condition, `index < constant`; loops here count from 0 by 1."""
    condition = _CONDITION.search(line)
    lines = [text.strip() for text in computations.get(condition[1] if condition else "", ())]
    constants = {match[1]: match[2] for text in lines if (match := _CONSTANT.match(text))}
    bounds = (match[1] for text in lines if (match := _BOUND.match(text)))
    return int(constants.get(next(bounds, ""), 1))


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
    for dtype, shape in _ARRAY.findall(line[line.index(" = ") + 3 : match.start()]):
        digits = re.sub(r"^[a-z]+", "", dtype)
        bits = _BITS.get(dtype) or int(re.match(r"\d+", digits)[0])  # type: ignore[index]
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
    elif match := _NAMED.search(line):
        members = _named_members(match[1], match[2])
    elif match := _LISTED.search(line):
        members = np.array([int(part) for part in match[1].split(",")])
    elif match := _PAIRS.search(line):
        pairs = [[int(end) for end in pair] for pair in re.findall(r"(\d+),(\d+)", match[1])]
        members = _first_chain(pairs)
    else:
        members = np.arange(math.prod(sizes))  # "replica_groups={}" is all devices
    if members.max(initial=0) >= math.prod(sizes):
        return len(members), ()
    places = np.unravel_index(members, sizes)
    axes = tuple(axis for axis, place in zip(mesh, places, strict=True) if len(set(place)) > 1)
    return len(members), axes


def _first_chain(pairs: Sequence[Sequence[int]]) -> np.ndarray:
    """Devices of the first ring or chain of a permutation, without those that keep their part."""
    neighbors: dict[int, set[int]] = {}
    for source, target in pairs:
        if source != target:
            neighbors.setdefault(source, set()).add(target)
            neighbors.setdefault(target, set()).add(source)
    found: set[int] = set()
    waiting = [next(iter(neighbors), 0)]
    while waiting:
        device = waiting.pop()
        if device not in found:
            found.add(device)
            waiting.extend(neighbors.get(device, ()))
    return np.array(sorted(found))


def _named_members(sizes: str, group: str) -> np.ndarray:
    """Devices of the first group of `mesh['a'=4,'b'=2] {'a','b':(1)2}`.

    Args:
      sizes: the axes of the program's own mesh, whose devices are in order.
      group: the axes along which a group lies, or parts of them: `'b':(m)s` is the middle of an
        axis that is seen as m times s times the rest.
    """
    wanted = {
        name: (int(before), int(size)) if size else None
        for name, before, size in _NAMED_AXIS.findall(group)
    }
    dims: list[int] = []
    index: list[slice | int] = []
    for name, count in ((name, int(count)) for name, count in _NAMED_SIZE.findall(sizes)):
        if part := wanted.get(name):
            before, size = part
            dims += [before, size, count // (before * size)]
            index += [0, slice(None), 0]
        else:
            dims.append(count)
            index.append(slice(None) if name in wanted else 0)
    return np.arange(math.prod(dims)).reshape(dims)[tuple(index)].reshape(-1)

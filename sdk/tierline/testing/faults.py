"""The vocabulary of trouble: each fault is one kind, at one place, for one span of time.

A schedule is a tuple of faults. It is drawn from a seed (which kinds occur at all is drawn first,
so that rare pairs meet), written down as text for a reproduction, and taken apart by shrinking.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple

from tierline._exceptions import ConfigurationError


class FaultKind(StrEnum):
    """What can go wrong. ``size`` of a fault means what the comment says."""

    # the network between the client and one endpoint
    LATENCY = "latency"  # every way takes size times as long
    SPIKES = "spikes"  # half of the ways take a Pareto draw longer, size seconds at least
    LOSS = "loss"  # a request or its answer vanishes, with probability size
    CUT = "cut"  # everything vanishes, both ways
    ONE_WAY = "one_way"  # requests arrive, answers vanish
    REFUSE = "refuse"  # connections are refused
    RESET = "reset"  # the connection breaks before an answer, with probability size
    EOF = "eof"  # the answer ends in the middle, with probability size
    DRIP = "drip"  # the answer trickles in over size seconds
    DUPLICATE = "duplicate"  # requests arrive twice
    MISDIRECTED = "misdirected"  # the answer of another request comes back, with probability size
    CORRUPT = "corrupt"  # a byte of the frame's header is damaged, with probability size
    # one endpoint
    NAN = "nan"  # scores that are no numbers
    INFINITE = "infinite"  # scores that are infinite
    SHORT = "short"  # scores are missing
    STALE = "stale"  # an older bundle answers, whatever was asked for
    BUSY = "busy"  # refuses for load, with probability size, and says when to come back
    GARBLED_BUSY = "garbled_busy"  # the same, but the pushback is nonsense
    ERRORS = "errors"  # the model fails at once, with probability size
    FREEZE = "freeze"  # accepts, and does not move
    CRASH = "crash"  # is gone, with all it held; afterwards cold: slow at first
    SLOW = "slow"  # computes size times as long
    CAPACITY = "capacity"  # keeps only this share of its workers
    SWAP = "swap"  # serves the next bundle from here on
    REJECT = "reject"  # calls the request wrong, with probability size
    # the caller's process
    CANCEL = "cancel"  # callers give up, with probability size, at any instant of the call
    STALL = "stall"  # the process stands still for the fault's length
    DRIFT = "drift"  # its clock runs size times as fast


PROCESS_KINDS = frozenset({FaultKind.CANCEL, FaultKind.STALL, FaultKind.DRIFT})

# The smallest and largest size drawn for each kind; the kinds not named have none.
_SIZES: dict[FaultKind, tuple[float, float]] = {
    FaultKind.LATENCY: (2.0, 20.0),
    FaultKind.SPIKES: (0.005, 0.1),
    FaultKind.LOSS: (0.05, 0.6),
    FaultKind.RESET: (0.1, 1.0),
    FaultKind.EOF: (0.1, 1.0),
    FaultKind.DRIP: (0.01, 0.5),
    FaultKind.MISDIRECTED: (0.2, 1.0),
    FaultKind.CORRUPT: (0.2, 1.0),
    FaultKind.BUSY: (0.2, 1.0),
    FaultKind.GARBLED_BUSY: (0.2, 1.0),
    FaultKind.ERRORS: (0.2, 1.0),
    FaultKind.SLOW: (3.0, 30.0),
    FaultKind.CAPACITY: (0.1, 0.5),
    FaultKind.REJECT: (0.1, 0.5),
    FaultKind.CANCEL: (0.1, 0.8),
    FaultKind.DRIFT: (0.98, 1.02),
}


class Fault(NamedTuple):
    """One fault. ``target`` is an endpoint's URL, or "" for the caller's own process; ``start`` and
    ``length`` are virtual seconds."""

    kind: FaultKind
    target: str
    start: float
    length: float
    size: float = 1.0

    def __str__(self) -> str:
        where = f"@{self.target}" if self.target else ""
        return f"{self.kind}{where}[{self.start:.4f}+{self.length:.4f}]x{self.size:.4f}"


Schedule = tuple[Fault, ...]

_WRITTEN = re.compile(r"([a-z_]+)(?:@(\S+?))?\[([0-9.]+)\+([0-9.]+)\]x([0-9.]+)")


def write_schedule(faults: Schedule) -> str:
    """A schedule as one line, which ``read_schedule`` reads."""
    return "; ".join(str(fault) for fault in faults) or "none"


def read_schedule(text: str) -> Schedule:
    """The schedule in such a line. Raises ConfigurationError."""
    faults: list[Fault] = []
    for part in text.split(";"):
        if part.strip() in ("", "none"):
            continue
        written = _WRITTEN.fullmatch(part.strip())
        if written is None:
            raise ConfigurationError(
                f"{part.strip()!r} is no fault; write kind@url[start+length]xsize", key="schedule"
            )
        name, target, start, length, size = written.groups()
        (kind,) = kinds_named([name])
        faults.append(Fault(kind, target or "", float(start), float(length), float(size)))
    return tuple(faults)


def kinds_named(names: Collection[str]) -> tuple[FaultKind, ...]:
    """The kinds of these names; "all" and "none" are known too. Raises ConfigurationError."""
    if "all" in names:
        return tuple(FaultKind)
    known = {kind.value: kind for kind in FaultKind}
    wanted = [name for name in names if name != "none"]
    for name in wanted:
        if name not in known:
            raise ConfigurationError(
                f"{name!r} is no fault; known: all, none, {', '.join(known)}", key="faults"
            )
    return tuple(known[name] for name in wanted)


def draw_schedule(
    rng: Random,
    endpoints: Sequence[str],
    *,
    until: float,
    kinds: Sequence[FaultKind] = tuple(FaultKind),
    share: float = 0.3,
    most: int = 3,
) -> Schedule:
    """Faults that begin and end before ``until`` seconds. Each kind occurs at all with probability
    ``share``; one that does strikes one to ``most`` times."""
    faults: list[Fault] = []
    for kind in kinds:
        if rng.random() >= share:
            continue
        for _ in range(1 + int(rng.random() * most)):
            faults.append(draw_fault(rng, kind, endpoints, until))
    return tuple(sorted(faults, key=lambda fault: (fault.start, str(fault))))


def draw_fault(rng: Random, kind: FaultKind, endpoints: Sequence[str], until: float) -> Fault:
    """One fault of this kind, somewhere and sometime before ``until``."""
    low, high = _SIZES.get(kind, (1.0, 1.0))
    target = "" if kind in PROCESS_KINDS else rng.choice(endpoints)
    start = rng.random() * until * 0.8
    length = (0.1 + 0.9 * rng.random()) * (until - start)
    if kind is FaultKind.STALL:
        length = min(length, 0.01 + 0.29 * rng.random())
    return Fault(
        kind, target, round(start, 4), round(length, 4), round(low + (high - low) * rng.random(), 4)
    )

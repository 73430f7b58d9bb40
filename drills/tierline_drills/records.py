"""The raw log of a drill: one JSON object a line, from which every figure is computed.

Times are seconds of one machine's monotonic clock since the drill's origin, so that every process
of the drill writes on the same axis. Pure: reads text, writes text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from tierline_drills.errors import BadLog

FORMAT = 1
EXPERIMENT, CONTROL = "experiment", "control"  # the two groups of a drill

# What an event may be; a drill's timeline is made of these and of the clients' beliefs.
EVENTS = frozenset(
    {"inject", "clear", "alert", "response", "restored", "stop", "rollback", "note", "probe"}
)
NOT_FAILURES = frozenset({"ok", "abandoned", "lapsed"})  # ends of an attempt that blame nobody


class Tried(NamedTuple):
    """One attempt of a call, at one endpoint."""

    number: int
    kind: str  # "first" | "failover" | "retry" | "hedge" | "escalation"
    tier: str
    endpoint: str  # the node's name in the drill
    started: float
    ended: float
    outcome: str

    @property
    def failed(self) -> bool:
        """Whether it ended in a way that is somebody's fault."""
        return self.outcome not in NOT_FAILURES


class Call(NamedTuple):
    """One call of the open-loop schedule. ``due`` is when it was to be sent, whatever happened
    before: a latency counted from there has no coordinated omission."""

    group: str
    client: int
    number: int
    due: float
    ended: float
    tier: str = ""
    quality: str = ""  # "full" | "edge" | "degraded"; empty: no answer
    reason: str = ""
    bundle: str = ""
    error: str = ""  # empty: answered
    wrong: str = ""  # what is wrong with the answer; empty: it is what its bundle says
    gain: float = 0.0  # NDCG@10 of the answer
    full_gain: float = 0.0  # NDCG@10 of the answer the best healthy tier would have given
    attempts: tuple[Tried, ...] = ()
    criticality: str = "default"  # what its caller says it is worth

    @property
    def latency(self) -> float:
        """Seconds from when it was due to its end."""
        return self.ended - self.due


class Belief(NamedTuple):
    """What one client believes of one endpoint, from ``at`` on."""

    group: str
    client: int
    at: float
    endpoint: str
    breaker: str  # "closed" | "open" | "half_open"
    out: bool  # ejected, or taken out by health probes

    @property
    def healthy(self) -> bool:
        """Whether the endpoint takes its whole share."""
        return self.breaker == "closed" and not self.out


class Event(NamedTuple):
    """Something the drill, a watcher or a responder did or saw."""

    at: float
    kind: str
    label: str
    endpoints: tuple[str, ...] = ()


class Count(NamedTuple):
    """Something counted outside of the calls: double executions, forbidden bytes, records lost."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """What the log is about; its first line. ``rate`` is calls a second over all clients of the
    experiment group; ``deadline`` and ``slo`` say what a good call is."""

    id: str
    title: str
    rate: float
    deadline: float
    slo: float = 0.999
    hypothesis: str = ""
    started: str = ""  # UTC
    git: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    endpoints: Mapping[str, str] = field(default_factory=dict)  # node → tier
    bundles: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    bars: tuple[Mapping[str, Any], ...] = ()
    negative: bool = False
    predicted: bool = False  # the simulator wrote this log
    settle: float = 5.0  # seconds of calm that count as recovered
    p99_within: float = 0.10  # of the baseline's p99 …
    p99_slack: float = 0.010  # … and this many seconds: a small machine's scheduler


@dataclass(slots=True)
class Log:
    """One drill's log, whole and in order of time."""

    drill: Drill
    calls: list[Call] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def sort(self) -> Log:
        """Put everything in order of time; returns itself."""
        self.calls.sort(key=lambda call: (call.due, call.client, call.number))
        self.beliefs.sort(key=lambda belief: belief.at)
        self.events.sort(key=lambda event: event.at)
        return self

    def group(self, name: str) -> list[Call]:
        """The calls of one group, by the instant they were due."""
        return [call for call in self.calls if call.group == name]


Line = Drill | Call | Belief | Event | Count


def write_line(entry: Line) -> str:
    """One line, without its end."""
    if isinstance(entry, Drill):
        values = {name: getattr(entry, name) for name in Drill.__dataclass_fields__}
        return _json({"type": "drill", "format": FORMAT, **values})
    named: dict[str, Any] = {"type": type(entry).__name__.lower(), **entry._asdict()}
    if isinstance(entry, Call):
        named["attempts"] = [list(_rounded(tried)) for tried in entry.attempts]
    return _json({key: _round(value) for key, value in named.items()})


def read_log(lines: Iterable[str]) -> Log:
    """A whole log. Raises BadLog naming the line that is not what the format says; a last line
    that was cut off in the middle (a drill that was killed) is left out."""
    log: Log | None = None
    numbered = list(enumerate(lines, start=1))
    for number, line in numbered:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            if number == numbered[-1][0] and not line.endswith("\n"):
                break
            raise BadLog(f"line {number} is no JSON: {error}") from error
        entry = read_line(value, number)
        if isinstance(entry, Drill):
            if log is not None:
                raise BadLog(f"line {number} begins a second drill; a log holds one")
            log = Log(entry)
        elif log is None:
            raise BadLog(f"line {number} comes before the line of type 'drill'")
        else:
            _add(log, entry)
    if log is None:
        raise BadLog("the log is empty; its first line must be of type 'drill'")
    return log.sort()


def read_line(value: object, number: int = 1) -> Line:
    """One entry from a line's JSON. Raises BadLog naming line ``number``."""
    if not isinstance(value, dict):
        raise BadLog(f"line {number} must be an object, got {type(value).__name__}")
    fields = dict(value)
    kind = fields.pop("type", None)
    try:
        if kind == "drill":
            return _drill(fields)
        if kind == "call":
            attempts = tuple(_tried(one) for one in fields.pop("attempts", ()))
            return _checked(Call(**fields, attempts=attempts))
        if kind == "belief":
            return _checked(Belief(**fields))
        if kind == "event":
            event = Event(**{**fields, "endpoints": tuple(fields.get("endpoints", ()))})
            if event.kind not in EVENTS:
                raise ValueError(f"no event is called {event.kind!r}")
            return _checked(event)
        if kind == "count":
            return _checked(Count(**fields))
    except (TypeError, ValueError) as error:
        raise BadLog(f"line {number} is no {kind}: {error}") from error
    raise BadLog(f"line {number} has type {kind!r}; known: drill, call, belief, event, count")


def _add(log: Log, entry: Line) -> None:
    match entry:
        case Call():
            log.calls.append(entry)
        case Belief():
            log.beliefs.append(entry)
        case Event():
            log.events.append(entry)
        case Count():
            log.counts.append(entry)
        case Drill():
            raise AssertionError("the caller keeps the head")


def _drill(fields: dict[str, Any]) -> Drill:
    found = fields.pop("format", None)
    if found != FORMAT:
        raise ValueError(f"its format is {found!r}, this version reads {FORMAT}")
    for name in ("bars", "bundles"):
        fields[name] = tuple(fields.get(name, ()))
    drill = Drill(**fields)
    if not (drill.rate > 0 and drill.deadline > 0 and 0 < drill.slo < 1):
        raise ValueError("rate and deadline must be positive, slo in (0, 1)")
    return drill


_ANNOTATED = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}

_Entry = TypeVar("_Entry", Call, Belief, Event, Count, Tried)


def _checked(entry: _Entry) -> _Entry:
    for name, annotation in type(entry).__annotations__.items():
        kind = getattr(annotation, "__forward_arg__", str(annotation))
        wanted, value = _ANNOTATED.get(kind), getattr(entry, name)
        if wanted is None or (isinstance(value, bool) and bool in wanted):
            continue
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise TypeError(f"{name} must be {kind}, got {value!r}")
    return entry


def _tried(values: Sequence[Any]) -> Tried:
    return _checked(Tried(*values))


def _rounded(values: Iterable[object]) -> Iterable[object]:
    return (_round(value) for value in values)


def _round(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)

"""What toxics do to the bytes of one direction of one connection. Pure: told the time, handed dice.

Names, attributes and units are Toxiproxy's (github.com/Shopify/toxiproxy): milliseconds, KB/s,
bytes, and microseconds between slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tierline_drills.errors import DrillError

UPSTREAM, DOWNSTREAM = "upstream", "downstream"

# Each type with its attributes and their defaults (0 where Toxiproxy has none).
ATTRIBUTES: Mapping[str, Mapping[str, float | str]] = {
    "latency": {"latency": 0, "jitter": 0},
    "bandwidth": {"rate": 0},
    "slow_close": {"delay": 0},
    "timeout": {"timeout": 0},
    "reset_peer": {"timeout": 0},
    "slicer": {"average_size": 64, "size_variation": 0, "delay": 0},
    "limit_data": {"bytes": 0},
    # Ours: what an answer says is changed; proxy.content has the faults.
    "content": {"fault": "nan"},
}


class BadToxic(DrillError):
    """A toxic that is not what the API takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """One toxic of one proxy. ``toxicity`` is the share of connections it is applied to."""

    name: str
    type: str
    stream: str = DOWNSTREAM
    toxicity: float = 1.0
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """A numeric attribute."""
        return float(self.attributes.get(name, ATTRIBUTES[self.type][name]))

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
            "attributes": {**ATTRIBUTES[self.type], **self.attributes},
        }


def read_toxic(value: Mapping[str, Any], base: Toxic | None = None) -> Toxic:
    """A toxic from the API's JSON; ``base`` is the one it updates. Raises BadToxic."""
    kind = value.get("type", base.type if base else None)
    if kind not in ATTRIBUTES:
        raise BadToxic(f"type must be one of {', '.join(ATTRIBUTES)}, got {kind!r}")
    stream = value.get("stream", base.stream if base else DOWNSTREAM)
    if stream not in (UPSTREAM, DOWNSTREAM):
        raise BadToxic(f"stream must be upstream or downstream, got {stream!r}")
    toxicity = value.get("toxicity", base.toxicity if base else 1.0)
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float):
        raise BadToxic(f"toxicity must be a number from 0 to 1, got {toxicity!r}")
    if not 0 <= toxicity <= 1:
        raise BadToxic(f"toxicity must be from 0 to 1, got {toxicity!r}")
    attributes = {**(base.attributes if base else {}), **_attributes(kind, value)}
    name = value.get("name") or (base.name if base else f"{kind}_{stream}")
    return Toxic(
        name=str(name),
        type=kind,
        stream=stream,
        toxicity=float(toxicity),
        attributes=attributes,
    )


def _attributes(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    given = value.get("attributes") or {}
    if not isinstance(given, Mapping):
        raise BadToxic("attributes must be an object")
    for name, number in given.items():
        default = ATTRIBUTES[kind].get(name)
        if default is None:
            known = ", ".join(ATTRIBUTES[kind])
            raise BadToxic(f"{kind} has no attribute {name!r}; it has {known}")
        if isinstance(default, str):
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
            raise BadToxic(f"{kind}.{name} must be a number from 0 on, got {number!r}")
    return dict(given)


class Piece(NamedTuple):
    """Bytes to pass on at an instant, and what to do with the connection after them."""

    at: float
    data: bytes
    then: str = ""  # "" | "close" | "reset"


class Stream:
    """One direction of one connection: what was offered goes out as pieces, in order."""

    def __init__(self, direction: str, opened: float, dice: Random) -> None:
        self.direction = direction
        self.opened = opened
        self._dice = dice
        self._applies: dict[str, bool] = {}  # by toxic, drawn once a connection
        self._last = opened  # nothing may overtake what was offered before
        self._sent = 0  # bytes let through, for limit_data
        self._free = opened  # when a limited line is free again

    def offered(self, data: bytes, now: float, toxics: Sequence[Toxic]) -> list[Piece]:
        """What becomes of these bytes."""
        pieces = [Piece(now, data)]
        for toxic in self.active(toxics):
            pieces = self._through(toxic, pieces)
        ordered = []
        for piece in pieces:
            self._last = max(self._last, piece.at)
            ordered.append(piece._replace(at=self._last))
        return ordered

    def closing(self, now: float, toxics: Sequence[Toxic]) -> float:
        """When the end of this direction may be passed on."""
        delays = [t.value("delay") / 1000 for t in self.active(toxics) if t.type == "slow_close"]
        return max(self._last, now + sum(delays))

    def doom(self, now: float, toxics: Sequence[Toxic]) -> Piece | None:
        """When the connection is to be closed or reset whatever passes; None: not."""
        found = []
        for toxic in self.active(toxics):
            span = toxic.value("timeout") / 1000 if toxic.type in ("timeout", "reset_peer") else 0
            if toxic.type == "reset_peer":
                found.append(Piece(now + span, b"", "reset"))
            elif toxic.type == "timeout" and span > 0:
                found.append(Piece(now + span, b"", "close"))
        return min(found, default=None)

    def active(self, toxics: Sequence[Toxic]) -> list[Toxic]:
        """Those that strike this connection in this direction."""
        struck = []
        for toxic in toxics:
            if toxic.stream != self.direction:
                continue
            if toxic.name not in self._applies:
                self._applies[toxic.name] = self._dice.random() < toxic.toxicity
            if self._applies[toxic.name]:
                struck.append(toxic)
        return struck

    def _through(self, toxic: Toxic, pieces: list[Piece]) -> list[Piece]:
        match toxic.type:
            case "latency":
                return [self._later(toxic, piece) for piece in pieces]
            case "bandwidth":
                return [self._trickled(toxic, piece) for piece in pieces]
            case "timeout" | "reset_peer":
                return []
            case "slicer":
                return [part for piece in pieces for part in self._sliced(toxic, piece)]
            case "limit_data":
                return self._limited(toxic, pieces)
            case _:
                return pieces  # slow_close acts at the end; content acts on whole answers

    def _later(self, toxic: Toxic, piece: Piece) -> Piece:
        jitter = toxic.value("jitter") * (2 * self._dice.random() - 1)
        return piece._replace(at=piece.at + max(0.0, toxic.value("latency") + jitter) / 1000)

    def _trickled(self, toxic: Toxic, piece: Piece) -> Piece:
        rate = toxic.value("rate") * 1000  # KB/s; 0: nothing passes
        if rate == 0:
            return Piece(float("inf"), piece.data)
        self._free = max(self._free, piece.at) + len(piece.data) / rate
        return piece._replace(at=self._free)

    def _sliced(self, toxic: Toxic, piece: Piece) -> list[Piece]:
        average = max(1, int(toxic.value("average_size")))
        spread = min(int(toxic.value("size_variation")), average - 1)
        parts, at, start = [], piece.at, 0
        while start < len(piece.data):
            size = average + int((2 * self._dice.random() - 1) * spread)
            parts.append(Piece(at, piece.data[start : start + size]))
            start += size
            at += toxic.value("delay") / 1e6
        return parts

    def _limited(self, toxic: Toxic, pieces: list[Piece]) -> list[Piece]:
        passed: list[Piece] = []
        limit = int(toxic.value("bytes"))
        for piece in pieces:
            room = limit - self._sent
            if room <= 0:
                return [*passed, Piece(piece.at, b"", "close")]
            self._sent += min(room, len(piece.data))
            if len(piece.data) >= room:
                return [*passed, Piece(piece.at, piece.data[:room], "close")]
            passed.append(piece)
        return passed

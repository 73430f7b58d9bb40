"""What was proven of a pair of tiers, at which thresholds, and whether it holds for what runs now.

A call is kept at the edge iff its uncertainty (in [0, 1]) is at most the threshold. The certificate
bounds the mean loss of the served lists against the cloud's lists. Pure: digests and numbers only.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Final, TypeVar

ESCALATE_ALL: Final = -1.0  # below every uncertainty: no call is kept
KEEP_ALL: Final = 1.0  # no uncertainty exceeds it: every call is kept
MAX_POINTS: Final = 1024
MAX_TEXT: Final = 100

T = TypeVar("T", bound="int | float | str")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was certified, as digests (sha256, hex): a change of any voids the certificate."""

    model: str  # the edge's graph and how it is run
    catalogue: str  # which items, in which order
    quantization: str  # precision of the graph and of the tables
    cloud: str  # the cloud's bundle: its lists are what the loss is measured against

    def __post_init__(self) -> None:
        for part in fields(self):
            digest = getattr(self, part.name)
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{part.name} must be 64 lower-case hex digits, got {digest!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One threshold: the bound on the loss there, and the share of calibration calls escalated."""

    threshold: float
    bound: float
    escalation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """What an answer carries. ``alpha`` bounds the mean loss at ``threshold`` with probability at
    least 1 − ``delta`` over the draw of the ``n`` calibration users; when ``valid`` is false, the
    ``reasons`` say why nothing of it may be relied on."""

    alpha: float
    delta: float
    n: int
    threshold: float
    id: str
    valid: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The proof, as a bundle stores it.

    ``threshold`` was accepted by a fixed-sequence test: there the loss is at most ``alpha``. The
    ``curve`` (thresholds rising, the last one KEEP_ALL) holds at all its points at once, so a
    controller may choose among them looking at anything. Each of the two statements holds with
    probability at least 1 − ``delta``. Raises ValueError when a field makes no sense.
    """

    loss: str
    method: str
    slot: str  # which events were calibrated on: the same kind that is served
    created: str
    alpha: float
    delta: float
    n: int
    threshold: float
    curve: tuple[CurvePoint, ...]
    subject: Subject
    # The first 12 hex digits of the sha256 of everything the certificate says.
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not (0 < self.alpha <= 1 and 0 < self.delta < 1 and self.n >= 1):
            raise ValueError(
                "expected alpha in (0, 1], delta in (0, 1) and n >= 1, "
                f"got {self.alpha}, {self.delta}, {self.n}"
            )
        _check_curve(self.curve)
        if self.threshold not in [point.threshold for point in self.curve]:
            raise ValueError(f"threshold {self.threshold} is no point of the curve")
        digest = hashlib.sha256(_canonical(self._content())).hexdigest()
        object.__setattr__(self, "id", digest[:12])  # it is asked for with every answer

    def bound_at(self, threshold: float) -> float:
        """The curve's bound at any threshold: that of the next point at or above it, because the
        loss only grows with the threshold. Above KEEP_ALL nothing changes any more."""
        if math.isnan(threshold):
            raise ValueError("a threshold must not be NaN")
        at = bisect_left(self.curve, threshold, key=lambda point: point.threshold)
        return self.curve[min(at, len(self.curve) - 1)].bound

    def bound_with_forced(self, threshold: float, forced: float) -> float:
        """The bound when a share ``forced`` of all calls wanted the cloud and was kept at the edge.

        R ≤ α(t) + P(forced)·E[l | forced] with l ≤ 1, and never more than keeping every call
        costs, since a call that is escalated loses nothing. Derivation: docs/quality.md.
        """
        if not 0 <= forced <= 1:
            raise ValueError(f"forced must be a share of all calls, got {forced}")
        return min(self.bound_at(threshold) + forced, self.curve[-1].bound)

    def judge(
        self,
        running: Subject,
        *,
        threshold: float | None = None,
        forced: float = 0.0,
        alarm: str = "",
    ) -> CertificateStatus:
        """What may be said of it beside these very files; the rest as for ``status``."""
        reasons = self.changes(running)
        if alarm:
            reasons = (*reasons, alarm)
        return self.status(threshold=threshold, forced=forced, reasons=reasons)

    def changes(self, running: Subject) -> tuple[str, ...]:
        """What of its subject is not what runs, each with a sentence."""
        return tuple(
            f"{part.name} changed since calibration"
            for part in fields(Subject)
            if getattr(running, part.name) != getattr(self.subject, part.name)
        )

    def status(
        self,
        *,
        threshold: float | None,
        forced: float = 0.0,
        lost: float = 0.0,
        reasons: tuple[str, ...] = (),
    ) -> CertificateStatus:
        """What an answer may say now.

        ``threshold`` None: the policy stays at the certified threshold and relies on alpha alone.
        A number: a controller moves it and relies on the curve alone, so that each policy rests on
        one event of probability 1 − delta. ``forced`` is the share of calls kept at the edge
        against the threshold's advice, ``lost`` the share that neither tier answered: they may have
        lost everything. ``reasons`` already void it.
        """
        if threshold is None:
            used, bound = self.threshold, min(1.0, self.alpha + forced + lost)
        else:
            used, bound = threshold, min(1.0, self.bound_with_forced(threshold, forced) + lost)
        if bound > self.alpha:
            cause = f"{forced:.1%} of calls forced to the edge, " if forced else ""
            if lost:
                cause += f"{lost:.1%} answered by neither tier, "
            above = f"{cause}the bound is {bound:.4g}, above alpha {self.alpha:.4g}"
            reasons = (*reasons, above)
        return CertificateStatus(
            alpha=bound,
            delta=self.delta,
            n=self.n,
            threshold=used,
            id=self.id,
            valid=not reasons,
            reasons=reasons,
        )

    def to_json(self) -> dict[str, object]:
        """As JSON, with its id."""
        return {"id": self.id, **self._content()}

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """Read what ``to_json`` wrote; unknown fields and a wrong id are refused. Raises
        ValueError naming the field."""
        said = _object(value, "certificate", {part.name for part in fields(cls)})
        points = said["curve"]
        if not isinstance(points, list) or len(points) > MAX_POINTS:
            raise ValueError(f"certificate.curve: expected a list of at most {MAX_POINTS} points")
        certificate = cls(
            loss=_value(said, "loss", str),
            method=_value(said, "method", str),
            slot=_value(said, "slot", str),
            created=_value(said, "created", str),
            alpha=_value(said, "alpha", float),
            delta=_value(said, "delta", float),
            n=_value(said, "n", int),
            threshold=_value(said, "threshold", float),
            curve=tuple(_read_point(point, f"curve[{i}]") for i, point in enumerate(points)),
            subject=_read_subject(said["subject"]),
        )
        if said["id"] != certificate.id:
            raise ValueError(f"certificate.id: says {said['id']!r}, the content {certificate.id!r}")
        return certificate

    def _content(self) -> dict[str, object]:
        told = [part.name for part in fields(self) if part.init]
        content = {name: getattr(self, name) for name in told}
        points = [asdict(point) for point in self.curve]
        return {**content, "curve": points, "subject": asdict(self.subject)}


def _check_curve(curve: tuple[CurvePoint, ...]) -> None:
    if not curve or curve[-1].threshold != KEEP_ALL:
        raise ValueError(f"the curve must end at threshold {KEEP_ALL} (every call kept)")
    for point in curve:
        if not (0 <= point.bound <= 1 and 0 <= point.escalation <= 1):
            raise ValueError(f"bounds and escalations must lie in [0, 1], got {point}")
    for one, next_one in pairwise(curve):
        if not one.threshold < next_one.threshold:
            raise ValueError("the curve's thresholds must rise")
        if one.bound > next_one.bound or one.escalation < next_one.escalation:
            raise ValueError("along the curve, bounds rise and escalation falls")


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False).encode()


def _object(value: object, where: str, wanted: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {type(value).__name__}")
    if set(value) != wanted:
        wrong = ", ".join(sorted(map(str, set(value) ^ wanted)))
        raise ValueError(f"{where}: missing or unknown fields: {wrong}")
    return value


def _value(said: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = said[key]
    if kind is float and type(value) is int and abs(value) <= MAX_POINTS:
        value = float(value)  # JSON writes 1.0 as 1 in other languages; huge ones overflow
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"certificate.{key}: expected {kind.__name__}, got {value!r}")
    if isinstance(value, str) and not (value.isprintable() and len(value) <= MAX_TEXT):
        raise ValueError(f"certificate.{key}: expected at most {MAX_TEXT} printable characters")
    return value


def _read_point(value: object, where: str) -> CurvePoint:
    said = _object(value, where, {part.name for part in fields(CurvePoint)})
    return CurvePoint(
        threshold=_value(said, "threshold", float),
        bound=_value(said, "bound", float),
        escalation=_value(said, "escalation", float),
    )


def _read_subject(value: object) -> Subject:
    said = _object(value, "certificate.subject", {field.name for field in fields(Subject)})
    return Subject(
        model=_value(said, "model", str),
        catalogue=_value(said, "catalogue", str),
        quantization=_value(said, "quantization", str),
        cloud=_value(said, "cloud", str),
    )

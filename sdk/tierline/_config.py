"""What a client is told: frozen policies, validated where they are made, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tierline._exceptions import ConfigurationError

if TYPE_CHECKING:
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

DEFAULT_DEADLINE = 0.25  # a page of results is put together in about this time


class Mode(StrEnum):
    """How a call uses the tiers."""

    SEQUENTIAL = "sequential"  # edge first, the cloud when the edge is unsure
    EDGE_ONLY = "edge_only"
    CLOUD_ONLY = "cloud_only"


class Balancing(StrEnum):
    """How one endpoint of a tier is chosen."""

    LEAST_LOADED = "least_loaded"  # the lesser loaded of two drawn at random
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    WEIGHTED = "weighted"
    CONSISTENT_HASH = "consistent_hash"  # by the call's key: keeps a user on one warm endpoint


def _require(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ConfigurationError(message, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    ``attempts`` caps a whole call (escalations and hedges included), ``per_tier`` one tier. The
    strategies are tenacity's own objects, evaluated in the core; None means Tierline's default
    (retry what another endpoint could answer; full jitter from ``base`` seconds, doubling, to
    ``cap``). Retries, hedges and failovers together add at most ``budget`` of the calls of the last
    ten seconds, plus ``floor`` a second; a connection that was refused cost nobody anything and
    up to two of them a call are free.
    """

    attempts: int = 4  # one edge, one failover, and two cloud tiers
    per_tier: int = 2
    base: float = 0.010
    cap: float = 0.250
    budget: float = 0.10  # SRE book: 10 % keeps a retry storm from living on
    floor: float = 1.0  # per second and process; small, since processes multiply it
    retry: retry_base | None = None
    wait: wait_base | None = None
    stop: stop_base | None = None

    def __post_init__(self) -> None:
        _require(self.attempts >= 1, "retry.attempts", f"must be at least 1, got {self.attempts}")
        _require(self.per_tier >= 1, "retry.per_tier", f"must be at least 1, got {self.per_tier}")
        _require(0 < self.base <= self.cap, "retry.base", "must be positive and at most retry.cap")
        _require(0 <= self.budget <= 1, "retry.budget", f"must be in [0, 1], got {self.budget}")
        _require(self.floor >= 0, "retry.floor", f"must not be negative, got {self.floor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When a second attempt starts before the first has answered: after the tier's measured 95th
    percentile (``after`` None) or after a fixed number of seconds. Hedges draw on a budget of their
    own and on the retry budget."""

    after: float | None = None
    budget: float = 0.05

    def __post_init__(self) -> None:
        positive = self.after is None or self.after > 0
        _require(positive, "hedge.after", f"must be positive, got {self.after}")
        _require(0 <= self.budget <= 1, "hedge.budget", f"must be in [0, 1], got {self.budget}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When an endpoint stops being asked for one model, and how it comes back.

    Opens on ``consecutive`` failures, or at ``failure_rate`` over ``window`` seconds once
    ``minimum_calls`` were seen. Stays open ``open_for`` seconds, doubling to ``open_cap``; then
    lets one leased probe through, then two, then four, and closes after ``close_after`` successes.
    """

    window: float = 10.0
    minimum_calls: int = 20
    failure_rate: float = 0.5
    consecutive: int = 5
    open_for: float = 1.0
    open_cap: float = 30.0
    close_after: int = 5

    def __post_init__(self) -> None:
        _require(self.window > 0, "breaker.window", f"must be positive, got {self.window}")
        rate = 0 < self.failure_rate <= 1
        _require(rate, "breaker.failure_rate", f"must be in (0, 1], got {self.failure_rate}")
        _require(self.minimum_calls >= 1, "breaker.minimum_calls", "must be at least 1")
        _require(self.consecutive >= 1, "breaker.consecutive", "must be at least 1")
        _require(self.close_after >= 1, "breaker.close_after", "must be at least 1")
        ordered = 0 < self.open_for <= self.open_cap
        _require(ordered, "breaker.open_for", "must be positive and at most breaker.open_cap")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationPolicy:
    """When an edge answer is not good enough.

    ``threshold`` None takes the one the bundle was calibrated with. Escalations stay within
    ``budget`` of the calls of the last ten seconds, plus ``burst``.
    """

    threshold: float | None = None
    budget: float = 0.20
    burst: float = 10.0

    def __post_init__(self) -> None:
        inside = self.threshold is None or 0 <= self.threshold <= 1
        _require(inside, "escalation.threshold", f"must be in [0, 1], got {self.threshold}")
        _require(0 <= self.budget <= 1, "escalation.budget", f"must be in [0, 1]: {self.budget}")
        _require(self.burst >= 0, "escalation.burst", f"must not be negative, got {self.burst}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address that answers score calls: ``http(s)://host:port``, ``unix:///path`` or
    ``embedded:PATH`` (a bundle scored in this process)."""

    url: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        known = self.url.startswith(("http://", "https://", "unix://", "embedded:"))
        _require(
            known, "endpoints.url", f"must be http(s)://, unix:// or embedded:, not {self.url}"
        )
        _require(self.weight > 0, "endpoints.weight", f"must be positive, got {self.weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A level of cost and quality: its endpoints, where they are and how far they are trusted.
    Tiers are asked in the order of the list: edge tiers first, then private before public cloud."""

    name: str
    kind: str  # "edge" | "cloud"
    endpoints: tuple[Endpoint, ...]
    region: str = "local"
    trust: str = "private"  # "private" | "public"
    balancing: Balancing = Balancing.LEAST_LOADED

    def __post_init__(self) -> None:
        where = f"tiers.{self.name}"
        _require(bool(self.name), "tiers.name", "must not be empty")
        _require(self.name != "client", f"{where}.name", "'client' names the client's fallbacks")
        _require(self.kind in ("edge", "cloud"), f"{where}.kind", "must be 'edge' or 'cloud'")
        _require(self.trust in ("private", "public"), f"{where}.trust", "is 'private' or 'public'")
        _require(bool(self.endpoints), f"{where}.endpoints", "needs at least one endpoint")
        urls = [endpoint.url for endpoint in self.endpoints]
        _require(len(set(urls)) == len(urls), f"{where}.endpoints", "names an endpoint twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sovereignty:
    """Where a request may go at all: tiers in one of ``regions`` (None: any), trusted at least as
    far as ``trust`` ("private": no public tier). Holds for every attempt of a call: first,
    failover, retry, hedge and escalation."""

    regions: tuple[str, ...] | None = None
    trust: Literal["private", "public"] = "public"

    def __post_init__(self) -> None:
        known = self.trust in ("private", "public")
        _require(known, "sovereignty.trust", f"must be 'private' or 'public', got {self.trust!r}")
        _require(self.regions != (), "sovereignty.regions", "must name a region, or be left out")

    def permits(self, tier: Tier) -> bool:
        """Whether a request under this policy may reach the tier."""
        in_region = self.regions is None or tier.region in self.regions
        return in_region and (self.trust == "public" or tier.trust == "private")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Everything a client goes by. ``priors`` maps a model to a popularity prior on disk
    (a ``.npy`` file or a bundle folder), so that the last rung needs no network."""

    tiers: tuple[Tier, ...]
    deadline: float = DEFAULT_DEADLINE
    transport: Literal["lean", "httpx"] = "lean"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hedge: HedgePolicy | None = None
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    escalation: EscalationPolicy = field(default_factory=EscalationPolicy)
    sovereignty: Sovereignty = field(default_factory=Sovereignty)
    priors: dict[str, Path] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    allow_unsigned: bool = False  # for embedded bundles only

    def __post_init__(self) -> None:
        _require(bool(self.tiers), "tiers", "needs at least one tier")
        names = [tier.name for tier in self.tiers]
        _require(len(set(names)) == len(names), "tiers", f"names a tier twice: {names}")
        kinds = [tier.kind for tier in self.tiers]
        _require(
            kinds == sorted(kinds, reverse=True), "tiers", "edge tiers come before cloud tiers"
        )
        trusts = [tier.trust for tier in self.tiers if tier.kind == "cloud"]
        _require(trusts == sorted(trusts), "tiers", "private cloud tiers come before public ones")
        _require(self.deadline > 0, "client.deadline", f"must be positive, got {self.deadline}")
        known = self.transport in ("lean", "httpx")
        _require(known, "client.transport", f"must be 'lean' or 'httpx', got {self.transport!r}")
        if self.hedge is not None and self.hedge.after is not None:
            early = self.hedge.after < self.deadline
            _require(early, "hedge.after", f"must be below client.deadline ({self.deadline} s)")


def simple_tiers(edge: list[str], cloud: list[str], balancing: Balancing) -> tuple[Tier, ...]:
    """One edge tier and one private cloud tier from plain addresses."""
    tiers: list[Tier] = []
    for name, urls in (("edge", edge), ("cloud", cloud)):
        if urls:
            endpoints = tuple(Endpoint(url=url) for url in urls)
            tiers.append(Tier(name=name, kind=name, endpoints=endpoints, balancing=balancing))
    return tuple(tiers)

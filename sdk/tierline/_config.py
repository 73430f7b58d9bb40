"""What a client is told: tiers, endpoints, data policy, and the policies it goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from tierline._policies import (
    BreakerPolicy,
    EjectionPolicy,
    EscalationPolicy,
    HealthPolicy,
    HedgePolicy,
    LimiterPolicy,
    RetryPolicy,
    TimeoutPolicy,
    require,
)
from tierline._sovereignty import Sovereignty

__all__ = [
    "DEFAULT_DEADLINE",
    "Balancing",
    "BreakerPolicy",
    "ClientConfig",
    "Criticality",
    "EjectionPolicy",
    "Endpoint",
    "EscalationPolicy",
    "HealthPolicy",
    "HedgePolicy",
    "LimiterPolicy",
    "Mode",
    "RetryPolicy",
    "Sovereignty",
    "Tier",
    "TimeoutPolicy",
    "simple_tiers",
]

DEFAULT_DEADLINE = 0.25  # a page of results is put together in about this time


class Mode(StrEnum):
    """How a call uses the tiers."""

    SEQUENTIAL = "sequential"  # edge first, the cloud when the edge is unsure
    EDGE_ONLY = "edge_only"
    CLOUD_ONLY = "cloud_only"


class Criticality(StrEnum):
    """Who gives way first when an endpoint is full: sheddable calls, then default ones."""

    CRITICAL = "critical"
    DEFAULT = "default"
    SHEDDABLE = "sheddable"


class Balancing(StrEnum):
    """How one endpoint of a tier is chosen."""

    LEAST_LOADED = "least_loaded"  # the lesser loaded of two drawn at random
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    WEIGHTED = "weighted"
    CONSISTENT_HASH = "consistent_hash"  # by the call's key: keeps a user on one warm endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address that answers score calls: ``http(s)://host:port``, ``unix:///path`` or
    ``embedded:PATH`` (a bundle scored in this process). ``zone`` names what it fails together
    with (a rack, a site): hedges go to another one, and a client in a zone prefers its own."""

    url: str
    weight: float = 1.0
    zone: str | None = None

    def __post_init__(self) -> None:
        known = self.url.startswith(("http://", "https://", "unix://", "embedded:"))
        require(known, "endpoints.url", f"must be http(s)://, unix:// or embedded:, not {self.url}")
        require(self.weight > 0, "endpoints.weight", f"must be positive, got {self.weight}")


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
        require(bool(self.name), "tiers.name", "must not be empty")
        require(self.name != "client", f"{where}.name", "'client' names the client's fallbacks")
        require(self.kind in ("edge", "cloud"), f"{where}.kind", "must be 'edge' or 'cloud'")
        require(self.trust in ("private", "public"), f"{where}.trust", "is 'private' or 'public'")
        require(bool(self.endpoints), f"{where}.endpoints", "needs at least one endpoint")
        urls = [endpoint.url for endpoint in self.endpoints]
        require(len(set(urls)) == len(urls), f"{where}.endpoints", "names an endpoint twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Everything a client goes by. ``priors`` maps a model to a popularity prior on disk
    (a ``.npy`` file or a bundle folder), so that the last rung needs no network; ``zone`` is where
    this client runs; ``health`` None sends no probes."""

    tiers: tuple[Tier, ...]
    deadline: float = DEFAULT_DEADLINE
    transport: Literal["lean", "httpx"] = "lean"
    zone: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hedge: HedgePolicy | None = None
    timeout: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    ejection: EjectionPolicy = field(default_factory=EjectionPolicy)
    limiter: LimiterPolicy = field(default_factory=LimiterPolicy)
    health: HealthPolicy | None = None
    escalation: EscalationPolicy = field(default_factory=EscalationPolicy)
    sovereignty: Sovereignty = field(default_factory=Sovereignty)
    priors: dict[str, Path] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    allow_unsigned: bool = False  # for embedded bundles only

    def __post_init__(self) -> None:
        require(bool(self.tiers), "tiers", "needs at least one tier")
        names = [tier.name for tier in self.tiers]
        require(len(set(names)) == len(names), "tiers", f"names a tier twice: {names}")
        kinds = [tier.kind for tier in self.tiers]
        require(kinds == sorted(kinds, reverse=True), "tiers", "edge tiers come before cloud tiers")
        trusts = [tier.trust for tier in self.tiers if tier.kind == "cloud"]
        require(trusts == sorted(trusts), "tiers", "private cloud tiers come before public ones")
        require(self.deadline > 0, "client.deadline", f"must be positive, got {self.deadline}")
        known = self.transport in ("lean", "httpx")
        require(known, "client.transport", f"must be 'lean' or 'httpx', got {self.transport!r}")
        if self.hedge is not None and self.hedge.after is not None:
            early = self.hedge.after < self.deadline
            require(early, "hedge.after", f"must be below client.deadline ({self.deadline} s)")
        self._check_across()

    def _check_across(self) -> None:
        """What two policies must agree on."""
        below = f"must be below client.deadline ({self.deadline} s)"
        require(self.timeout.reserve < self.deadline, "timeout.reserve", below)
        zones = {endpoint.zone for tier in self.tiers for endpoint in tier.endpoints}
        known = self.zone is None or self.zone in zones
        names = ", ".join(sorted(zone for zone in zones if zone)) or "none"
        require(known, "client.zone", f"is {self.zone!r}, where no endpoint is; zones: {names}")


def simple_tiers(
    edge: Sequence[str], cloud: Sequence[str], balancing: Balancing
) -> tuple[Tier, ...]:
    """One edge tier and one private cloud tier from plain addresses."""
    tiers: list[Tier] = []
    for name, urls in (("edge", edge), ("cloud", cloud)):
        listed = not isinstance(urls, str | bytes)  # a string is a list of its letters to Python
        require(listed, name, f"must be a list of addresses, as in {name}=[{urls!r}]")
        if urls:
            endpoints = tuple(Endpoint(url=url) for url in urls)
            tiers.append(Tier(name=name, kind=name, endpoints=endpoints, balancing=balancing))
    return tuple(tiers)

"""Configurations and plans the simulation tests share."""

from __future__ import annotations

from tierline import ClientConfig, Endpoint, Tier
from tierline.testing import Fault, FaultKind


def tier(name: str, size: int, *, kind: str = "", **settings: object) -> Tier:
    """A tier of so many endpoints, http://<name>-1 and so on."""
    endpoints = tuple(Endpoint(url=f"http://{name}-{i}") for i in range(1, size + 1))
    return Tier(name=name, kind=kind or name, endpoints=endpoints, **settings)  # type: ignore[arg-type]  # a Tier's own fields


def fleet(edge: int = 2, cloud: int = 1, **settings: object) -> ClientConfig:
    """A client's configuration for so many endpoints of each kind."""
    tiers = tuple(tier(name, n) for name, n in (("edge", edge), ("cloud", cloud)) if n)
    return ClientConfig(tiers=tiers, **settings)  # type: ignore[arg-type]  # a ClientConfig's own fields


def fault(
    kind: str, target: str = "", start: float = 0.0, length: float = 4.0, size: float = 1.0
) -> Fault:
    """One fault, from the start by default."""
    return Fault(FaultKind(kind), target and f"http://{target}", start, length, size)

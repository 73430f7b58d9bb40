"""The worst a configuration implies: attempts a call and over time, the longest wait, what is left
with k endpoints down, what may be spent on escalations, and who sees what. Pure arithmetic.

Every bound is compared in the tests with an adversary driving the core itself: never passed, and
reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

from tierline._config import ClientConfig, Tier
from tierline._core.budgets import WindowCount
from tierline._core.call import FREE_FAILOVERS
from tierline._core.certified import SHADOW_BURST
from tierline._core.escalation import START_GATE
from tierline._core.estimators import LatencyWindow
from tierline._core.sovereignty import rule_for
from tierline._core.timeouts import attempt_until

# An interval of t seconds touches at most t + 2 of the whole seconds that budgets are counted in,
# and they are spent anew every ten of them.
WINDOW: Final = WindowCount.SECONDS
SLACK: Final = WINDOW + 1


class Step(NamedTuple):
    """One attempt of the longest chain, in seconds since the call began."""

    tier: str
    started: float
    ended: float


class Loss(NamedTuple):
    """What is left when the worst ``down`` endpoints are.

    ``at_once``: every call is answered by a tier while nothing is learnt of the fault (as long as
    the retry budget pays). ``settled``: every call is, once breakers have opened, but for those
    that probe an endpoint that is down. ``loses_edge``, ``loses_cloud``: all of the edge (the
    cloud) may be among them.
    """

    down: int
    at_once: bool
    settled: bool
    loses_edge: bool
    loses_cloud: bool


class Sight(NamedTuple):
    """What a tier is shown of a field: an action, or "nothing" where it is never asked."""

    tier: str
    field: str
    action: str


def permitted(config: ClientConfig) -> list[Tier]:
    """The tiers the client's data policy lets requests reach, in order."""
    return [tier for tier in config.tiers if config.sovereignty.permits(tier)]


def most_attempts(config: ClientConfig) -> int:
    """The most attempts one call can make, in any mode."""
    tiers = permitted(config)
    routes = [tiers, _of_kind(tiers, "edge"), _of_kind(tiers, "cloud")]
    chains = [_tries(config, order) for route in routes if route for order in _orders(route)]
    structural = min(config.retry.attempts, max((sum(chain) for chain in chains), default=0))
    if _pays_for_retries(config):
        return structural
    free = 1 + FREE_FAILOVERS + (1 if escalates(config) else 0)
    return min(structural, free)


def extra_attempts(
    config: ClientConfig, *, calls: float, seconds: float, processes: int = 1
) -> float:
    """The most retries, hedges and failovers that were ever paid for, for so many calls (of all
    processes together) in so many seconds. Up to two attempts a call whose connection was refused
    come on top: they reached nobody."""
    asked = calls + escalations(config, calls=calls, seconds=seconds, processes=processes)
    return config.retry.budget * asked + processes * config.retry.floor * (seconds + SLACK)


def escalations(config: ClientConfig, *, calls: float, seconds: float, processes: int = 1) -> float:
    """The most escalations for so many calls (of all processes together) in so many seconds."""
    if not escalates(config):
        return 0.0
    policy = config.escalation
    burst = processes * policy.allowance
    if not policy.moves:  # there it may be spent anew in every window
        burst *= (seconds + SLACK) / WINDOW
    return min(calls, policy.ratio * calls + burst)


def shadows(config: ClientConfig, *, calls: float, processes: int = 1) -> float:
    """The most calls of one model that are shown to the cloud as well, for so many of it."""
    if not config.escalation.shadow or not is_paired(config):
        return 0.0
    return min(calls, config.escalation.shadow * calls + processes * SHADOW_BURST)


def longest_chain(config: ClientConfig) -> list[Step]:
    """The attempts of a call that nobody answers: each runs until it is given up, before any
    latency was measured, and none waits to be repeated."""
    tiers, deadline = permitted(config), config.deadline
    steps: list[Step] = []
    now = 0.0
    for i, (tier, tries) in enumerate(zip(tiers, _tries(config, tiers), strict=True)):
        others = i < len(tiers) - 1
        for here in range(1, tries + 1):
            made = len(steps) + 1
            if made > most_attempts(config) or deadline - now < START_GATE:
                return steps
            until = attempt_until(
                config.timeout,
                LatencyWindow(),
                now=now,
                deadline=deadline,
                is_last=made >= config.retry.attempts
                or not (others or (len(tier.endpoints) > 1 and here < config.retry.per_tier)),
                is_probe=False,
            )
            steps.append(Step(tier.name, now, until))
            now = until
    return steps


def availability(config: ClientConfig) -> list[Loss]:
    """What is left with 0, 1, … all endpoints down, whichever they are."""
    tiers = permitted(config)
    edge, cloud = _of_kind(tiers, "edge"), _of_kind(tiers, "cloud")
    least = {"edge": _deadly(config, edge), "cloud": _deadly(config, cloud)}
    reached = endpoints_reached(config) if _pays_for_retries(config) else 1
    gone = sum(least.values())
    return [
        Loss(
            down,
            at_once=down < reached,
            settled=down < gone,
            loses_edge=bool(edge) and down >= least["edge"],
            loses_cloud=bool(cloud) and down >= least["cloud"],
        )
        for down in range(sum(len(tier.endpoints) for tier in tiers) + 1)
    ]


def endpoints_reached(config: ClientConfig) -> int:
    """How many different endpoints one call can try, as far as attempts go."""
    tries = sum(min(config.retry.per_tier, len(t.endpoints)) for t in permitted(config))
    return min(tries, config.retry.attempts)


def sights(config: ClientConfig) -> list[Sight]:
    """What each tier is shown of every field that a rule names, and of the others ("*")."""
    policy = config.sovereignty
    named = [rule.name for rule in policy.fields if not rule.name.startswith("call.")]
    fields = [*dict.fromkeys(name for name in named if not name.endswith("*")), "*"]
    return [
        Sight(tier.name, shown, action)
        for tier in config.tiers
        for field in fields
        for shown, action in _shown(config, tier, field)
    ]


def never_asked(config: ClientConfig) -> list[Tier]:
    """The permitted tiers whose field rules let through no request at all: whatever a field is
    called, it is forbidden."""
    policy = config.sovereignty
    return [
        tier
        for tier in permitted(config)
        if rule_for(policy, tier, "query", "").action == "forbid"
        and all(rule.action == "forbid" for rule in policy.fields if rule.concerns(tier))
    ]


def _shown(config: ClientConfig, tier: Tier, field: str) -> Iterator[tuple[str, str]]:
    head, dot, tail = field.partition(".")
    qualified = bool(dot) and head in ("query", "candidates")
    for space in (head,) if qualified else ("query", "candidates"):
        name = tail if qualified else field
        rule = rule_for(config.sovereignty, tier, space, "" if name == "*" else name)
        permits = config.sovereignty.permits(tier)
        yield f"{space}.{name}", rule.action if permits else "nothing"


def _of_kind(tiers: Sequence[Tier], kind: str) -> list[Tier]:
    return [tier for tier in tiers if tier.kind == kind]


def _tries(config: ClientConfig, route: Sequence[Tier]) -> list[int]:
    """How often each tier of a route may be asked: an endpoint is asked twice only when it belongs
    to the last tier there is."""
    per_tier = config.retry.per_tier
    tries = [min(per_tier, len(tier.endpoints)) for tier in route]
    return [*tries[:-1], per_tier] if tries else []


def _orders(route: Sequence[Tier]) -> Iterator[list[Tier]]:
    """The orders a route can take: of edge and of cloud, any one may be moved to the front."""
    levels = [level for kind in ("edge", "cloud") if (level := _of_kind(route, kind))]
    for leaders in product(*levels):
        led = zip(leaders, levels, strict=True)
        yield [tier for first, level in led for tier in [first, *_without(level, first)]]


def _without(level: Sequence[Tier], first: Tier) -> list[Tier]:
    return [tier for tier in level if tier is not first]


def _pays_for_retries(config: ClientConfig) -> bool:
    return config.retry.budget > 0 or config.retry.floor * WINDOW >= 1


def is_paired(config: ClientConfig) -> bool:
    """Whether there are an edge and a cloud to choose between."""
    return {tier.kind for tier in permitted(config)} == {"edge", "cloud"}


def escalates(config: ClientConfig) -> bool:
    """Whether edge answers that are not good enough may be replaced by the cloud's."""
    affords = config.escalation.ratio > 0 or config.escalation.allowance >= 1
    return is_paired(config) and affords


def _deadly(config: ClientConfig, tiers: Sequence[Tier]) -> int:
    """The fewest endpoints whose loss silences these tiers."""
    policy = config.ejection
    lost = 0
    for tier in tiers:
        size = len(tier.endpoints)
        floor = policy.panic_below * size if policy.panic == "fail" else 1.0
        needed = next(left for left in range(1, size + 1) if left >= floor)
        lost += size - needed + 1
    return lost

"""The policies a client goes by: frozen values, validated when made, each with its reason.

The defaults are those of the resilience reference; where one differs, its comment says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tierline._exceptions import ConfigurationError

if TYPE_CHECKING:
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base


def require(holds: bool, key: str, message: str) -> None:
    """Raise ConfigurationError naming ``key`` unless this holds."""
    if not holds:
        raise ConfigurationError(message, key=key)


def _share(value: float, key: str) -> None:
    require(0 < value <= 1, key, f"must be in (0, 1], got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    ``attempts`` caps a whole call (escalations and hedges included), ``per_tier`` one tier. The
    strategies are tenacity's own objects, evaluated in the core; None means Tierline's default
    (retry what another endpoint could answer; full jitter from ``base`` seconds, doubling, to
    ``cap``). Retries, hedges and failovers into a tier together add at most ``budget`` of what was
    asked of that tier in the last ten seconds, plus ``floor`` a second over all tiers; a connection
    that was refused cost nobody anything and up to two of them a call are free.
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
        require(self.attempts >= 1, "retry.attempts", f"must be at least 1, got {self.attempts}")
        require(self.per_tier >= 1, "retry.per_tier", f"must be at least 1, got {self.per_tier}")
        require(0 < self.base <= self.cap, "retry.base", "must be positive and at most retry.cap")
        require(0 <= self.budget <= 1, "retry.budget", f"must be in [0, 1], got {self.budget}")
        require(self.floor >= 0, "retry.floor", f"must not be negative, got {self.floor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When a second attempt starts before the first has answered: after the tier's measured 95th
    percentile (``after`` None) or after a fixed number of seconds. Hedges draw on a budget of their
    own and on that of the tier's retries; none is sent when the target's breaker is not closed,
    when it is 80 % full, or when too little time is left for its median."""

    after: float | None = None
    budget: float = 0.05

    def __post_init__(self) -> None:
        positive = self.after is None or self.after > 0
        require(positive, "hedge.after", f"must be positive, got {self.after}")
        require(0 <= self.budget <= 1, "hedge.budget", f"must be in [0, 1], got {self.budget}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutPolicy:
    """How long one attempt may take when another could follow it: ``multiple`` times the tier's
    measured 99.9th percentile, at least ``floor`` seconds, at most half of what remains. The last
    attempt a call can make has all the time there is, less ``reserve`` to return in."""

    multiple: float = 1.5  # about one false timeout in a thousand
    floor: float = 0.010  # a scheduler's hiccup on the other side is not a failure
    reserve: float = 0.001

    def __post_init__(self) -> None:
        require(self.multiple >= 1, "timeout.multiple", f"must be ≥ 1, got {self.multiple}")
        require(self.floor > 0, "timeout.floor", f"must be positive, got {self.floor}")
        require(self.reserve >= 0, "timeout.reserve", f"must not be negative, got {self.reserve}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When an endpoint stops being asked for one model, and how it comes back.

    Opens on ``consecutive`` failures, or over ``window`` seconds, once ``minimum_calls`` were seen,
    at ``failure_rate`` failures or ``slow_rate`` slow answers. Slow is what takes ``slow_multiple``
    times the tier's usual median and more than ``slow_share`` of its call's time. Stays open
    ``open_for`` seconds, doubling to ``open_cap`` until it was closed for ``healthy_for`` seconds;
    then lets one leased probe through, then two, then four, and closes after ``close_after``
    successes. While its peers are full, it is tried every ``open_for`` seconds without doubling.
    """

    window: float = 10.0
    minimum_calls: int = 20
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_multiple: float = 5.0  # of two endpoints the load alone makes one twice as slow
    slow_share: float = 0.5  # what leaves time for another attempt harms nobody
    consecutive: int = 5
    open_for: float = 1.0
    open_cap: float = 30.0
    healthy_for: float = 60.0
    close_after: int = 5

    def __post_init__(self) -> None:
        require(self.window > 0, "breaker.window", f"must be positive, got {self.window}")
        _share(self.failure_rate, "breaker.failure_rate")
        _share(self.slow_rate, "breaker.slow_rate")
        slower = self.slow_multiple > 1
        require(slower, "breaker.slow_multiple", f"must be above 1, got {self.slow_multiple}")
        _share(self.slow_share, "breaker.slow_share")
        require(self.minimum_calls >= 1, "breaker.minimum_calls", "must be at least 1")
        require(self.consecutive >= 1, "breaker.consecutive", "must be at least 1")
        require(self.close_after >= 1, "breaker.close_after", "must be at least 1")
        ordered = 0 < self.open_for <= self.open_cap
        require(ordered, "breaker.open_for", "must be positive and at most breaker.open_cap")
        require(self.healthy_for >= 0, "breaker.healthy_for", "must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionPolicy:
    """When an endpoint is left out for all of its models, and how it comes back.

    Ejected is an endpoint after ``consecutive`` failures, or whose share of failures over
    ``window`` seconds (once ``minimum_calls`` were seen) reaches ``failure_share`` and twice that
    of its peers. It stays out ``eject_for`` seconds, doubling to ``eject_cap`` until it was in for
    ``healthy_for``, ±``jitter``; then its share grows from ``slow_start_from`` to the whole over
    ``slow_start`` seconds. At most ``max_share`` of a tier is out at once, and never its last one.
    When less than ``panic_below`` of a tier can be asked, ``panic`` says whether to ignore
    ejections ("ignore") or to fail over at once ("fail").
    """

    window: float = 10.0
    minimum_calls: int = 20
    failure_share: float = 0.25
    consecutive: int = 5
    eject_for: float = 1.0
    eject_cap: float = 30.0
    healthy_for: float = 60.0
    jitter: float = 0.2  # two clients must not send everything back at one instant
    max_share: float = 0.5
    panic_below: float = 0.5
    panic: Literal["ignore", "fail"] = "ignore"
    slow_start: float = 30.0
    slow_start_from: float = 0.1

    def __post_init__(self) -> None:
        require(self.window > 0, "ejection.window", f"must be positive, got {self.window}")
        require(self.minimum_calls >= 1, "ejection.minimum_calls", "must be at least 1")
        require(self.consecutive >= 1, "ejection.consecutive", "must be at least 1")
        _share(self.failure_share, "ejection.failure_share")
        ordered = 0 < self.eject_for <= self.eject_cap
        require(ordered, "ejection.eject_for", "must be positive and at most ejection.eject_cap")
        require(self.healthy_for >= 0, "ejection.healthy_for", "must not be negative")
        require(0 <= self.jitter < 1, "ejection.jitter", f"must be in [0, 1), got {self.jitter}")
        known = 0 <= self.max_share <= 1
        require(known, "ejection.max_share", f"must be in [0, 1], got {self.max_share}")
        known = 0 <= self.panic_below <= 1
        require(known, "ejection.panic_below", f"must be in [0, 1], got {self.panic_below}")
        known = self.panic in ("ignore", "fail")
        require(known, "ejection.panic", f"must be 'ignore' or 'fail', got {self.panic!r}")
        require(self.slow_start >= 0, "ejection.slow_start", "must not be negative")
        _share(self.slow_start_from, "ejection.slow_start_from")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterPolicy:
    """How many attempts may be out at one endpoint, found by trying.

    Starts at ``initial``, stays in [``minimum``, ``maximum``]. Every ``update`` seconds (and
    ``samples`` answers) it follows the latency: up while it is at its usual height, down when it
    exceeds ``tolerance`` times that; a refusal for load or a timeout cuts it to nine tenths.
    """

    # The literature starts at 8 and lets callers queue; ours are refused, so start where a client
    # of many threads or tasks is never refused: at twice the connections an endpoint gets.
    initial: int = 128
    minimum: int = 1
    maximum: int = 256
    update: float = 1.0
    samples: int = 50
    tolerance: float = 1.5

    def __post_init__(self) -> None:
        ordered = 1 <= self.minimum <= self.initial <= self.maximum
        message = "must hold 1 ≤ minimum ≤ initial ≤ maximum"
        require(ordered, "limiter.initial", f"{message}, got {self.initial}")
        require(self.update > 0, "limiter.update", f"must be positive, got {self.update}")
        require(self.samples >= 1, "limiter.samples", f"must be at least 1, got {self.samples}")
        require(self.tolerance >= 1, "limiter.tolerance", f"must be ≥ 1, got {self.tolerance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationPolicy:
    """When an edge answer is not good enough, and how much is escalated at most.

    ``mode`` "fixed" stays at ``threshold`` (None: the one the bundle was calibrated with) within
    ``budget`` of the calls of the last ten seconds, plus ``burst``; when less than ``ease_below``
    of that, or of the room at the cloud, is left, the most certain calls stay at the edge first.

    The other modes move the threshold, by ``step`` a call, so that a share ``budget`` of all calls
    is escalated. "budget_first" does only that; "quality_first" also escalates whatever the
    bundle's certificate (without one: its threshold) demands. In any run of N calls at most
    ``cap``·N + ``burst`` are escalated (``cap`` None: the budget; ``burst`` None: just enough for
    the cap never to contradict the budget).

    ``shadow`` is the share of calls also shown to the cloud once their caller has been answered,
    to check the certificate; they come on top of the budget.
    """

    mode: Literal["fixed", "quality_first", "budget_first"] = "fixed"
    threshold: float | None = None
    budget: float = 0.20
    burst: float | None = None
    ease_below: float = 0.2
    cap: float | None = None
    step: float = 0.01  # at most 1.02 points off the budget after 10,000 calls
    shadow: float = 0.0

    def __post_init__(self) -> None:
        known = self.mode in ("fixed", "quality_first", "budget_first")
        said = f"must be 'fixed', 'quality_first' or 'budget_first', got {self.mode!r}"
        require(known, "escalation.mode", said)
        inside = self.threshold is None or 0 <= self.threshold <= 1
        require(inside, "escalation.threshold", f"must be in [0, 1], got {self.threshold}")
        require(0 <= self.budget <= 1, "escalation.budget", f"must be in [0, 1]: {self.budget}")
        positive = self.burst is None or 0 <= self.burst < math.inf
        require(positive, "escalation.burst", f"must not be negative, got {self.burst}")
        inside = 0 <= self.ease_below < 1
        require(inside, "escalation.ease_below", f"must be in [0, 1), got {self.ease_below}")
        _share(self.step, "escalation.step")
        inside = 0 <= self.shadow <= 1
        require(inside, "escalation.shadow", f"must be in [0, 1], got {self.shadow}")
        if self.cap is not None:
            require(self.moves, "escalation.cap", "has no effect in mode 'fixed': use the budget")
            inside = self.budget <= self.cap <= 1
            require(inside, "escalation.cap", f"must be in [budget, 1], got {self.cap}")
        if self.moves:
            said = "has no effect in a mode that moves the threshold: leave it out"
            require(self.threshold is None, "escalation.threshold", said)
            whole = self.burst is None or self.burst >= 1
            require(whole, "escalation.burst", f"must be at least 1 call, got {self.burst}")

    @property
    def moves(self) -> bool:
        """Whether the threshold moves."""
        return self.mode != "fixed"

    @property
    def ratio(self) -> float:
        """The largest share of calls that is escalated in the long run."""
        return self.budget if self.cap is None else self.cap

    @property
    def allowance(self) -> float:
        """The escalations that ``ratio`` may be exceeded by: in ten seconds in mode "fixed", in any
        run of calls in the others."""
        if self.burst is not None:
            return self.burst
        # A tracker's run of N calls wants at most b·N + (1 + 2η)/η.
        return (1 + 2 * self.step) / self.step + 1 if self.moves else 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """Probes of every endpoint's health, idle ones too: a whole score call, never a connect.

    Every ``interval`` seconds (±``jitter``) each endpoint is asked a golden request, or the last
    request that its own tier answered; it has ``timeout`` seconds. ``down_after`` failures in a row
    take it out for all models, ``up_after`` answers bring it back. ``golden`` is a bundle's folder:
    its golden requests are asked, and an answer by that bundle must be the golden one.
    """

    interval: float = 2.0
    jitter: float = 0.2
    timeout: float = 1.0
    down_after: int = 2
    up_after: int = 2
    golden: Path | None = None

    def __post_init__(self) -> None:
        require(self.interval > 0, "health.interval", f"must be positive, got {self.interval}")
        require(0 <= self.jitter < 1, "health.jitter", f"must be in [0, 1), got {self.jitter}")
        inside = 0 < self.timeout <= self.interval
        require(inside, "health.timeout", "must be positive and at most health.interval")
        require(self.down_after >= 1, "health.down_after", "must be at least 1")
        require(self.up_after >= 1, "health.up_after", "must be at least 1")

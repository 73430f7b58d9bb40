"""Which alerts fire, from what callers saw and what watchers found. Pure: told the time.

One alert a (name, endpoints): it fires once, repeats only after ``repeat`` seconds, and is resolved
when its condition has been quiet for ``quiet`` seconds. deploy/alerts/ holds the same conditions as
Prometheus rules, over the metrics that nodes export.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tierline_drills.records import Call, Tried
from tierline_drills.timeline import is_good

WINDOW = 2.0  # seconds looked back on
FAILURES = 5  # failed attempts at one endpoint, as many as open a breaker
WRONG = 3  # wrong answers that blame a bundle
FAST_BURN = 14.4  # times the sustainable rate: SRE workbook, 2 % of a month's budget in an hour
REPEAT = 300.0
QUIET = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a person or a responder is told. ``severity`` is "page" or "ticket"."""

    name: str
    summary: str
    severity: str = "page"
    endpoints: tuple[str, ...] = ()
    bundle: str = ""  # what it is about, for BundleFailing
    at: float = 0.0
    status: str = "firing"  # | "resolved"

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What makes it the same alert again."""
        return self.name, (self.bundle,) if self.bundle else self.endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What watchers found at one instant, beside the calls: processes that ended, damage of the
    registry (its sentence), nodes by the bundle they serve."""

    ended: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()  # nodes that answer no canary
    registry: str = ""
    serving: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Window:
    """The calls of the last WINDOW seconds, counted as they come and go: what a look costs does not
    grow with them."""

    deadline: float
    calls: deque[Call] = field(default_factory=deque)
    failed: Counter[str] = field(default_factory=Counter)  # attempts by endpoint
    fine: Counter[str] = field(default_factory=Counter)
    bad: int = 0  # calls
    wrong: deque[Tried] = field(default_factory=deque)  # attempts that a wrong answer ended

    def move(self, now: float, calls: list[Call]) -> None:
        """Let calls in, and those go that ended before the window."""
        self.calls.extend(calls)
        for call in calls:
            self._count(call, 1)
            self.wrong += [each for each in call.attempts if each.outcome == "model_failed"]
        while self.calls and self.calls[0].ended < now - WINDOW:
            gone = self.calls.popleft()
            self._count(gone, -1)
            for each in gone.attempts:
                if each.outcome == "model_failed":
                    self.wrong.popleft()  # they go in the order they came

    def _count(self, call: Call, step: int) -> None:
        self.bad += step * (not is_good(call, self.deadline))
        for tried in call.attempts:
            (self.failed if tried.failed else self.fine)[tried.endpoint] += step


@dataclass(slots=True)
class Rules:
    """Decides which alerts are told. ``slo`` and ``deadline`` say what a good call is."""

    slo: float
    deadline: float
    tiers: Mapping[str, str]  # node → tier
    repeat: float = REPEAT
    quiet: float = QUIET
    _window: _Window = field(init=False)
    _told: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    _seen: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    _active: dict[tuple[str, tuple[str, ...]], Alert] = field(default_factory=dict)
    _served: dict[str, tuple[str, float]] = field(default_factory=dict)  # node → bundle, since

    def __post_init__(self) -> None:
        self._window = _Window(self.deadline)

    def look(self, now: float, calls: list[Call], observed: Observed) -> list[Alert]:
        """The alerts to tell now: new ones, repeats that are due, and those that are over."""
        self._window.move(now, calls)
        told: list[Alert] = []
        for alert in self._conditions(now, observed):
            self._seen[alert.key] = now
            if now - self._told.get(alert.key, float("-inf")) >= self.repeat or (
                alert.key not in self._active
            ):
                self._told[alert.key] = now
                told.append(alert)
            self._active[alert.key] = alert
        for key in [k for k in self._active if now - self._seen[k] > self.quiet]:
            over = self._active.pop(key)
            told.append(
                Alert(
                    name=over.name,
                    summary=f"over: {over.summary}",
                    severity=over.severity,
                    endpoints=over.endpoints,
                    bundle=over.bundle,
                    at=now,
                    status="resolved",
                )
            )
        return told

    def _conditions(self, now: float, observed: Observed) -> list[Alert]:
        found = [
            Alert(name="NodeDown", summary=f"{name} has ended", endpoints=(name,), at=now)
            for name in observed.ended
        ]
        found += [
            Alert(
                name="NodeSilent",
                summary=f"{name} answers no canary",
                endpoints=(name,),
                at=now,
            )
            for name in observed.silent
            if name not in observed.ended
        ]
        if observed.registry:
            found.append(Alert(name="RegistryDamaged", summary=observed.registry, at=now))
        found += self._failing(now)
        found += self._burning(now)
        found += self._poisoned(now, observed)
        return found

    def _failing(self, now: float) -> list[Alert]:
        failed, fine = self._window.failed, self._window.fine
        down = [n for n, count in failed.items() if count >= FAILURES and count > fine[n]]
        alerts = [
            Alert(
                name="EndpointFailing",
                summary=f"{failed[name]} attempts at {name} failed within {WINDOW:.0f} s",
                severity="ticket",
                endpoints=(name,),
                at=now,
            )
            for name in sorted(down)
        ]
        for tier in sorted(set(self.tiers.values())):
            members = tuple(sorted(n for n, kind in self.tiers.items() if kind == tier))
            lost = sum(failed[name] for name in members)
            answered = sum(fine[name] for name in members)
            if lost >= FAILURES and answered == 0:
                summary = f"no attempt at tier {tier} succeeded within {WINDOW:.0f} s"
                alerts.append(Alert(name="TierLost", summary=summary, endpoints=members, at=now))
        return alerts

    def _burning(self, now: float) -> list[Alert]:
        bad, count = self._window.bad, len(self._window.calls)
        allowed = FAST_BURN * (1 - self.slo) * count
        if bad < 2 or bad <= allowed:
            return []
        summary = f"{bad} of {count} calls went wrong within {WINDOW:.0f} s"
        return [Alert(name="ErrorBudgetBurning", summary=summary, at=now)]

    def _poisoned(self, now: float, observed: Observed) -> list[Alert]:
        """Wrong answers, held against the bundle their node has served since before the attempt."""
        for node, bundle in observed.serving.items():
            if self._served.get(node, ("", 0.0))[0] != bundle:
                self._served[node] = (bundle, now if node in self._served else float("-inf"))
        wrong: dict[str, int] = {}
        for tried in self._window.wrong:
            bundle, since = self._served.get(tried.endpoint, ("", 0.0))
            if bundle and tried.started >= since:
                wrong[bundle] = wrong.get(bundle, 0) + 1
        return [
            Alert(
                name="BundleFailing",
                summary=f"{count} answers of bundle {bundle} were wrong within {WINDOW:.0f} s",
                endpoints=tuple(sorted(n for n, b in observed.serving.items() if b == bundle)),
                bundle=bundle,
                at=now,
            )
            for bundle, count in sorted(wrong.items())
            if count >= WRONG
        ]

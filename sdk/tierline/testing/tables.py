"""Tables of docs/resilience.md, made by asking the code: states and steps, failures, defaults.

``python -m tierline.testing.tables docs/resilience.md`` writes them anew; a test holds the page
against them, so that what it says is what the code does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tierline import _exceptions as errors
from tierline import _policies as policies
from tierline._config import BreakerPolicy
from tierline._core import lessons
from tierline._core.breaker import OUTRUN, Breaker, Permit
from tierline._core.retrying import Fault, fault_of, outcome_name

LEASE = 0.1  # seconds
MEANING = {
    Fault.NEVER_SENT: "another endpoint; two a call are free",
    Fault.ENDPOINT: "another endpoint, paid from the budget",
    Fault.BUSY: "another endpoint; the same only after its pushback",
    Fault.OURS: "another endpoint, paid from the budget",
    Fault.ELSEWHERE: "another endpoint or tier",
    Fault.CALLER: "never: the call ends",
}
POLICIES = (
    ("retry", policies.RetryPolicy),
    ("hedge", policies.HedgePolicy),
    ("timeout", policies.TimeoutPolicy),
    ("breaker", policies.BreakerPolicy),
    ("ejection", policies.EjectionPolicy),
    ("limiter", policies.LimiterPolicy),
    ("escalation", policies.EscalationPolicy),
    ("health", policies.HealthPolicy),
)


def breaker_table() -> str:
    """Every state of a breaker, what can happen in it, and the state after: each row was tried."""
    return _table(("state", "what happens", "state after"), [_tried(*case) for case in _CASES])


def failure_table() -> str:
    """Every failure of an attempt: whose fault it is, and what may follow."""
    kinds = [
        kind
        for kind in (*errors.TransportError.__subclasses__(), *errors.CallError.__subclasses__())
        if kind.__module__ == errors.__name__
    ]
    rows = [
        (f"`{outcome_name(kind('x'))}`", kind.__name__, fault.value, MEANING[fault])
        for kind in kinds
        for fault in [fault_of(kind("x"))]
    ]
    return _table(("attempt ends with", "error", "fault", "who may be asked next"), rows)


def lesson_table() -> str:
    """What each end of an attempt teaches, as the module that teaches it says."""
    said = lessons.__doc__ or ""
    return "\n".join(line for line in said.splitlines() if line.startswith("|"))


def default_table() -> str:
    """Every setting and its default."""
    rows = []
    for name, policy in POLICIES:
        settings = [
            f"`{field.name}` {_shown(field.default)}"
            for field in fields(policy)
            if field.default is not MISSING
        ]
        rows.append((f"`[{name}]`", ", ".join(settings)))
    return _table(("table", "settings and their defaults (seconds where a time)"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "breaker": breaker_table,
    "failures": failure_table,
    "lessons": lesson_table,
    "defaults": default_table,
}


def with_tables(page: str) -> str:
    """The page with every ``<!-- table: name -->`` block made anew."""
    for name, make in TABLES.items():
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = block.subn(lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", page)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        if count != 1:
            raise ValueError(f"the page needs one block '<!-- table: {name} -->', it has {count}")
    return page


# -- the breaker, tried ----------------------------------------------------------------------


class _Trial:
    """A breaker, its clock, and the permits it has given."""

    def __init__(self) -> None:
        self.policy = BreakerPolicy()
        self.breaker = Breaker(self.policy)
        self.now = 100.0
        self.first = self._acquire()

    def _acquire(self) -> Permit:
        permit = self.breaker.acquire(self.now, LEASE)
        assert permit is not None, "the trial only asks when it may"
        return permit

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self._acquire(), self.now, 0.0)

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.succeeded(self._acquire(), self.now)

    def give_up(self) -> None:
        self.breaker.released(self._acquire())

    def succeed_and_give_up(self) -> None:
        self.succeed()
        self.give_up()

    def open(self) -> None:
        self.fail(self.policy.consecutive)

    def half_open(self) -> None:
        self.open()
        self.wait()
        self.give_up()

    def wait(self) -> None:
        self.now += self.policy.open_for

    def call(self) -> None:
        self.breaker.acquire(self.now, LEASE)

    def late_results(self) -> None:
        self.breaker.succeeded(self.first, self.now)
        self.breaker.failed(self.first, self.now, 0.0)

    def hang(self) -> None:
        self._acquire()
        for _ in range(2):
            self.now += LEASE
            self.breaker.allows(self.now)

    def wait_and_call(self) -> None:
        self.wait()
        self.call()

    def outrun(self, times: int) -> None:
        for _ in range(times):
            self.breaker.outrun(self._acquire(), self.now, 0.0)

    def mostly_fail(self) -> None:
        for _ in range(self.policy.minimum_calls // 2):
            self.succeed()
            self.fail()

    def mostly_slow(self) -> None:
        for _ in range(self.policy.minimum_calls):
            self.breaker.succeeded(self._acquire(), self.now, slow=True)


def _nothing(trial: _Trial) -> None:
    """Closed is where a breaker begins."""


Step = Callable[[_Trial], None]
_POLICY = BreakerPolicy()
_FEW, _MANY, _CLOSING = _POLICY.consecutive - 1, _POLICY.consecutive, _POLICY.close_after
_CASES: Sequence[tuple[Step, str, Step]] = (
    (
        _nothing,
        "an attempt succeeds, or its caller gives up",
        _Trial.succeed_and_give_up,
    ),
    (_nothing, f"{_FEW} attempts fail in a row", lambda t: t.fail(_FEW)),
    (_nothing, f"{_MANY} attempts fail in a row", lambda t: t.fail(_MANY)),
    (_nothing, f"hedges outrun {OUTRUN - 1} attempts in a row", lambda t: t.outrun(OUTRUN - 1)),
    (_nothing, f"hedges outrun {OUTRUN} attempts in a row", lambda t: t.outrun(OUTRUN)),
    (
        _nothing,
        f"half of {_POLICY.minimum_calls} attempts fail, never two in a row",
        _Trial.mostly_fail,
    ),
    (_nothing, f"{_POLICY.minimum_calls} attempts are slow", _Trial.mostly_slow),
    (_Trial.open, "a call comes before the wait is over", _Trial.call),
    (_Trial.open, "attempts from before the break succeed and fail", _Trial.late_results),
    (_Trial.open, "a call comes when the wait is over: it is the probe", _Trial.wait_and_call),
    (_Trial.half_open, "a probe succeeds", _Trial.succeed),
    (_Trial.half_open, f"{_CLOSING} probes succeed", lambda t: t.succeed(_CLOSING)),
    (_Trial.half_open, "a probe fails", _Trial.fail),
    (_Trial.half_open, "a probe's caller gives up", _Trial.give_up),
    (_Trial.half_open, "a probe hangs until its lease is over", _Trial.hang),
    (_Trial.half_open, "attempts from before the break succeed and fail", _Trial.late_results),
)


def _tried(begin: Step, what: str, step: Step) -> tuple[str, str, str]:
    trial = _Trial()
    begin(trial)
    before = trial.breaker.state
    step(trial)
    after = trial.breaker.state
    return before.value, what, f"**{after.value}**" if after is not before else after.value


# -- words -----------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:  # Any: the default of whatever setting
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the tables of the pages named on the command line anew."""
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()

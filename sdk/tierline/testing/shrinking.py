"""Takes a failing run apart until nothing can be left out: fault kinds, then faults, then calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tierline.testing.simulation import Plan, PropertyFailed, Run, run_plan

Part = TypeVar("Part")
MOST_RUNS = 400  # a shrink that takes longer than this many runs stops where it is


def shrink(run: Run) -> Run:
    """The smallest run found that still breaks the first rule this one broke.

    Same seed, fewer faults and fewer calls. Raises ValueError for a run that broke no rule.
    """
    if not run.violations:
        raise ValueError("there is nothing to shrink: every property held")
    rule, seed = run.violations[0].rule, run.seed
    smallest, left = run, MOST_RUNS

    def fails(plan: Plan) -> bool:
        nonlocal smallest, left
        left -= 1
        again = run_plan(plan, seed=seed)
        if any(violation.rule == rule for violation in again.violations):
            smallest = again
            return True
        return False

    for kind in sorted({fault.kind for fault in run.plan.faults}):
        faults = smallest.plan.faults
        fewer = tuple(fault for fault in faults if fault.kind is not kind)
        if left > 0:
            fails(replace(smallest.plan, faults=fewer))
    minimal(smallest.plan.faults, lambda f: left > 0 and fails(replace(smallest.plan, faults=f)))
    minimal(smallest.plan.load, lambda c: left > 0 and fails(replace(smallest.plan, load=c)))
    return smallest


def minimal(parts: Sequence[Part], fails: Callable[[tuple[Part, ...]], bool]) -> tuple[Part, ...]:
    """A subsequence that still fails and of which no single part can be left out (ddmin).

    ``parts`` itself is known to fail. ``fails`` is asked about subsequences, the empty one first.
    """
    kept = tuple(parts)
    if fails(()):
        return ()
    chunk = max(1, len(kept) // 2)
    while len(kept) > 1:
        start, cut = 0, False
        while start < len(kept):
            fewer = kept[:start] + kept[start + chunk :]
            if fewer and len(fewer) < len(kept) and fails(fewer):
                kept, cut = fewer, True
            else:
                start += chunk
        if chunk > 1:
            chunk = max(1, chunk // 2)
        elif not cut:
            break
    return kept


def check(run: Run) -> Run:
    """Like ``run.check()``, but what it raises names the smallest schedule that fails too."""
    if not run.violations:
        return run
    smallest = shrink(run)
    try:
        return smallest.check()
    except PropertyFailed as failed:
        raise PropertyFailed(f"{failed}\nas drawn:  {run.reproduction}") from None

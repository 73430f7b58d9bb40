"""What a fleet did under faults, over many seeds: a few figures, and the worst seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tierline._types import QUALITY_DEGRADED
from tierline.testing.simulation import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures over all runs. A caller that gave up is counted in none of them."""

    seeds: int
    calls: int
    availability_any: float  # share of calls answered in time, however
    availability_full: float  # share answered as configured: nothing degraded
    tier_mix: dict[str, float]  # share of the answers, by tier; "client": its own fallbacks
    amplification: float  # attempts per call
    escalated: float  # share of calls the cloud answered because the edge was unsure
    p50: float  # seconds until the end of a call, good or bad
    p99: float
    worst_seed: int | str
    worst_availability: float
    forbidden_bytes: int
    violations: tuple[str, ...]  # the first of each seed, with the line that reproduces it
    simulated: float  # virtual seconds

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        mix = ", ".join(f"{tier} {share:.1%}" for tier, share in self.tier_mix.items())
        lines = [
            f"{self.seeds} seeds, {self.calls} calls, {self.simulated:.0f} virtual seconds",
            f"  answered in time    {self.availability_any:8.3%}",
            f"  as configured       {self.availability_full:8.3%}",
            f"  answered by         {mix}",
            f"  attempts a call     {self.amplification:8.3f}",
            f"  escalated           {self.escalated:8.3%}",
            f"  time to an end      {self.p50 * 1000:.1f} ms (p50), {self.p99 * 1000:.1f} ms (p99)",
            f"  worst seed          {self.worst_seed}: {self.worst_availability:.3%} answered",
            f"  forbidden bytes     {self.forbidden_bytes}",
            f"  broken properties   {len(self.violations) or 'none'}",
        ]
        return "\n".join([*lines, *(f"    {violation}" for violation in self.violations[:5])])


def report(runs: Iterable[Run]) -> Report:
    """Sum up runs, one after another; a run's trace is not kept."""
    tiers: Counter[str] = Counter()
    spans: list[float] = []
    answered = whole = attempts = escalated = forbidden = seeds = 0
    worst: tuple[float, int | str] = (2.0, "")
    violations: list[str] = []
    simulated = 0.0
    for run in runs:
        seeds += 1
        ended = [outcome for outcome in run.outcomes if outcome.name != "cancelled"]
        answers = [outcome.answer for outcome in ended if outcome.answer is not None]
        spans += [outcome.ended - outcome.began for outcome in ended]
        tiers.update(answer.tier for answer in answers)
        answered += len(answers)
        whole += sum(answer.quality != QUALITY_DEGRADED for answer in answers)
        escalated += sum(answer.reason.startswith("escalated") for answer in answers)
        attempts += run.attempts
        forbidden += run.forbidden_bytes
        simulated += run.lasted
        worst = min(worst, (len(answers) / max(1, len(ended)), run.seed), key=lambda pair: pair[0])
        if run.violations:
            violations.append(f"{run.violations[0]}; reproduce: {run.reproduction}")
    calls = max(1, len(spans))
    spans.sort()
    return Report(
        seeds=seeds,
        calls=len(spans),
        availability_any=answered / calls,
        availability_full=whole / calls,
        tier_mix={tier: count / max(1, answered) for tier, count in sorted(tiers.items())},
        amplification=attempts / calls,
        escalated=escalated / calls,
        p50=_quantile(spans, 0.50),
        p99=_quantile(spans, 0.99),
        worst_seed=worst[1],
        worst_availability=min(1.0, worst[0]),
        forbidden_bytes=forbidden,
        violations=tuple(violations),
        simulated=simulated,
    )


def _quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0

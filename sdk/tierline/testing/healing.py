"""What must be true in the end: with every fault mended, calls are answered and escalated again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tierline._types import Attempt
from tierline.testing.answers import Complaint
from tierline.testing.budgets import WINDOW
from tierline.testing.outcome import Outcome

ONE_FALSE_TIMEOUT = 1
FORGOTTEN = WINDOW + 1.3  # seconds after which a budget remembers nothing, clocks and buckets apart
SETTLING = 14.0  # seconds from the mending on, with some calls, in which everything must heal
LATELY = 5.0  # seconds; no drawn policy ejects anybody for longer
HASTY = 0.02  # seconds; who gives up sooner has learnt nothing of a healthy endpoint
SPELL = 8  # refusals in a row that no half-open breaker, and no raised threshold, explains
REFUSED = "escalation_refused: "
# What healthy endpoints, a full budget and time enough leave no reason for.
GROUNDLESS = frozenset(REFUSED + why for why in ("breaker", "threshold", "deadline"))


def complaints(
    outcomes: Sequence[Outcome], by: float, *, escalates: bool = True, fails_fast: bool = False
) -> Iterator[Complaint]:
    """Everything that has not healed. Calls begun at ``by`` or later must be answered by a tier,
    but for one (a timeout taken from a measured quantile is wrong about once in a thousand); and
    the doubtful ones among them go to the cloud, unless the policy never lets them
    (``escalates``). Where calls fail at once in a panic (``fails_fast``), that one may bring it
    about: who then asks nobody is no complaint, as long as others have been answered lately. Nor is
    it one when all who have asked, or escalated, since the mending gave up in haste: nobody could
    find out."""
    late = [outcome for outcome in outcomes if outcome.call.at >= by]
    failed = [outcome for outcome in late if _is_failed(outcome)]
    if fails_fast and any(not _is_failed(o) for o in outcomes if o.began >= by - LATELY):
        failed = [outcome for outcome in failed if outcome.attempts]
    if len(failed) > ONE_FALSE_TIMEOUT and not _asked_in_haste(outcomes, by):
        first = failed[0].answer or failed[0].error
        message = f"{len(failed)} of the last {len(late)} calls failed: {first!r}"
        yield "what was mended heals", message
    stuck = _refused_for_ever(late, sorted(_escalations(outcomes)))
    if len(stuck) >= SPELL and escalates and not _escalated_in_haste(outcomes, stuck[0].began, by):
        message = f"{len(stuck)} calls were refused and none escalated: {stuck[0].answer!r}"
        yield "escalation resumes", message


def _is_failed(outcome: Outcome) -> bool:
    return outcome.answer is None or outcome.answer.tier == "client"


def _asked_in_haste(outcomes: Sequence[Outcome], by: float) -> bool:
    """Whether everybody who asked between mending (or lately, when somebody was answered since)
    and ``by`` gave up before an answer could come, and nobody has asked since."""
    asked = [
        (outcome.began + attempt.started, attempt)
        for outcome in outcomes
        if outcome.began >= by - SETTLING
        for attempt in outcome.attempts
    ]
    answered = max((at for at, attempt in asked if attempt.outcome == "ok"), default=None)
    last = [each for each in asked if answered is None or each[0] > answered]
    recent = by - (SETTLING if answered is None else LATELY)
    return all(_is_hasty(attempt) and at < by for at, attempt in last) and any(
        at >= recent for at, _ in last
    )


def _escalated_in_haste(outcomes: Sequence[Outcome], before: float, by: float) -> bool:
    """The same of those who escalated from the mending on, until an instant: they keep a breaker
    open while nobody has been answered (docs/resilience.md, "In a hurry")."""
    asked = [
        attempt
        for outcome in outcomes
        if by - SETTLING <= outcome.began < before
        for attempt in outcome.attempts
        if attempt.kind == "escalation"
    ]
    return bool(asked) and all(map(_is_hasty, asked))


def _is_hasty(attempt: Attempt) -> bool:
    return attempt.outcome == "timed_out" and attempt.ended - attempt.started < HASTY


def has_resumed(outcomes: Sequence[Outcome], by: float) -> bool:
    """Whether escalations were refused before ``by`` and one was answered since."""
    refused = any(_is_refused(outcome) for outcome in outcomes if outcome.call.at < by)
    late = (outcome for outcome in outcomes if outcome.call.at >= by)
    return refused and any(
        a.kind == "escalation" and a.outcome == "ok" for o in late for a in o.attempts
    )


def _refused_for_ever(late: Sequence[Outcome], escalations: Sequence[float]) -> list[Outcome]:
    """The late calls that were refused though nobody had been escalated for as long as any budget
    remembers: nothing was spent, so that nothing but a belief can have stood in their way."""
    return [
        outcome
        for outcome in late
        if _is_refused(outcome)
        and not any(outcome.began - FORGOTTEN < at < outcome.began for at in escalations)
    ]


def _is_refused(outcome: Outcome) -> bool:
    reason = "" if outcome.answer is None else outcome.answer.reason
    return reason.partition("; ")[0] in GROUNDLESS


def _escalations(outcomes: Sequence[Outcome]) -> Iterator[float]:
    """When each attempt to escalate was made."""
    for outcome in outcomes:
        for attempt in outcome.attempts:
            if attempt.kind == "escalation":
                yield outcome.began + attempt.started

"""What must be true of every outcome: in time, this call's own, every label on it true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tierline._config import ClientConfig, Mode
from tierline._core.commands import EARLY
from tierline._exceptions import BadRequest
from tierline._types import QUALITY_DEGRADED, QUALITY_EDGE, QUALITY_FULL, Answer
from tierline.certificate import CertificateStatus
from tierline.testing.load import PlannedCall
from tierline.testing.network import SimLink
from tierline.testing.outcome import Outcome
from tierline.testing.privacy import shows
from tierline.testing.truth import CERTIFIED, THRESHOLD, certificate_of, is_true, prior_scores
from tierline.testing.watch import CallWatch
from tierline.wire import decode_request

KINDS = frozenset({"first", "failover", "retry", "hedge", "escalation"})
DEGRADED = (
    "last_good_answer: ",
    "popularity_prior: ",
    "escalation_refused: ",
    "escalation_failed: ",
)
SLACK = 0.002  # seconds a call may end after its deadline, beyond stalls and drift

Complaint = tuple[str, str]  # the rule, and what broke it


def complaints(
    outcome: Outcome,
    watched: CallWatch,
    config: ClientConfig,
    links: Mapping[str, SimLink],
    earlier: list[CallWatch],
    grace: float,
) -> Iterator[Complaint]:
    """Every rule this outcome breaks. ``earlier`` are the calls that may have left a last good
    answer under its key; ``grace`` is the time a stall or a drifting clock may have cost it."""
    call = outcome.call
    span = config.deadline if call.deadline is None else call.deadline
    if outcome.ended - outcome.began > span + SLACK + grace:
        late = outcome.ended - outcome.began - span
        yield "ends by the deadline", f"call {call.number} ended {late:.6f} s late"
    yield from _attempts(outcome, watched)
    if any(policy.has_field_rules for policy in watched.policies):
        words = f"{outcome.answer!r} {outcome.attempts!r} {' '.join(_told(outcome.error))}"
        if shows(words, call.number):
            yield "sovereign", f"call {call.number}: what is told of it names its private field"
    if outcome.answer is not None:
        yield from _answer(watched, outcome.answer, config, links, earlier)


def _told(error: BaseException | None) -> Iterator[str]:
    """An error and all that it came from, as a traceback would show them."""
    while error is not None:
        yield f"{error!r} {getattr(error, '__notes__', '')}"
        error = error.__cause__ or error.__context__


def _attempts(outcome: Outcome, watched: CallWatch) -> Iterator[Complaint]:
    number, attempts = outcome.call.number, outcome.attempts
    numbers = [attempt.number for attempt in attempts]
    if sorted(numbers) != sorted(set(numbers)) or len(numbers) > watched.sent + 1:
        yield "attempts are told", f"call {number}: {numbers} told, {watched.sent} sent"
    for attempt in attempts:
        if attempt.kind not in KINDS or (attempt.number == 1) is not (attempt.kind == "first"):
            yield "attempts are told", f"call {number}: attempt {attempt}"
        if attempt.started > attempt.ended + EARLY:
            yield "attempts are told", f"call {number}: ended before it began: {attempt}"
    final = [a for a in attempts if a.outcome in ("bad_request", "not_permitted")]
    if final and any(a.started > final[0].ended for a in attempts):
        yield "a wrong request is not retried", f"call {number}: {attempts}"
    if final and outcome.answer is None and not isinstance(outcome.error, BadRequest):
        yield "a wrong request is said so", f"call {number}: {outcome.error!r}"


def _answer(
    watched: CallWatch,
    answer: Answer,
    config: ClientConfig,
    links: Mapping[str, SimLink],
    earlier: list[CallWatch],
) -> Iterator[Complaint]:
    call = watched.planned
    where = f"call {call.number}, {answer!r}"
    wanted = len(call.candidates) if call.candidates is not None else call.k
    if len(answer.scores) != wanted:
        yield "whole answers only", where
    fill = np.zeros(len(answer.scores), bool) if answer.items is None else answer.items == -1
    if not np.isfinite(answer.scores[~fill]).all():
        yield "finite scores only", f"{where}: {answer.scores}"
    if answer.quality not in (QUALITY_FULL, QUALITY_EDGE, QUALITY_DEGRADED) or not answer.reason:
        yield "labels are true", f"{where}: unknown quality or no reason"
    if answer.certificate is not None:
        yield from _certificate(call, answer, answer.certificate, where)
    if answer.tier == "client":
        yield from _fallback(call, answer, earlier, where)
    else:
        yield from _fresh(watched, answer, config, links, where)


def _certificate(
    call: PlannedCall, answer: Answer, said: CertificateStatus, where: str
) -> Iterator[Complaint]:
    """A certificate is about undisturbed recommendations by the tiers it names, no others."""
    if call.mode is not Mode.SEQUENTIAL:
        yield "certificates are true", f"{where}: the call chose its tier"
    if not said.valid:
        if not said.reasons:
            yield "certificates are true", f"{where}: void, but why?"
        return
    if answer.quality == QUALITY_DEGRADED or "reduced_view" in answer.reason:
        yield "certificates are true", f"{where}: this answer is not what was certified"
    if call.k is None or call.k < CERTIFIED:
        yield "certificates are true", f"{where}: not a list of {CERTIFIED}"
    # The simulated certificates name the cloud's bundle like the edge's own.
    if said.id != certificate_of(answer.bundle).id and not answer.reason.startswith("edge_failed"):
        yield "certificates are true", f"{where}: {answer.bundle} is not what {said.id} is about"


def _fallback(
    call: PlannedCall, answer: Answer, earlier: list[CallWatch], where: str
) -> Iterator[Complaint]:
    if answer.quality != QUALITY_DEGRADED:
        yield "labels are true", f"{where}: a fallback is degraded"
    if answer.reason.startswith("popularity_prior: "):
        items = answer.items
        if items is None or not np.array_equal(answer.scores, prior_scores()[items]):
            yield "answers are this call's", f"{where}: not the prior's scores"
        return
    if not answer.reason.startswith("last_good_answer: "):
        yield "labels are true", f"{where}: which fallback is it?"
    bundle, request = answer.bundle, call.request
    for former in earlier:
        for seen in (former.planned.request, *map(decode_request, former.shown.values())):
            merged = request._replace(query=seen.query)
            if is_true(bundle, merged, answer.scores, answer.items):
                return
    yield "answers are this call's", f"{where}: no earlier answer of its key"


def _fresh(
    watched: CallWatch,
    answer: Answer,
    config: ClientConfig,
    links: Mapping[str, SimLink],
    where: str,
) -> Iterator[Complaint]:
    call = watched.planned
    tier = next((tier for tier in config.tiers if tier.name == answer.tier), None)
    good = [links[a.endpoint] for a in answer.attempts if a.outcome == "ok"]
    asked = [link for link in good if link.tier.name == answer.tier]
    if tier is None or not any(answer.bundle in link.node.served for link in asked):
        yield "labels are true", f"{where}: nobody there served {answer.bundle}"
        return
    reduced = any(a.reduced for a in answer.attempts if a.tier == answer.tier)
    asked_for = decode_request(watched.shown[answer.tier]) if reduced else call.request
    if not is_true(answer.bundle, asked_for, answer.scores, answer.items):
        yield "answers are this call's", f"{where}: {answer.bundle} answers this differently"
    if call.version is not None and answer.bundle != call.version:
        yield "a pinned version answers", f"{where}: {call.version} was asked for"
    if (answer.quality == QUALITY_FULL) is not (tier.kind == "cloud"):
        yield "labels are true", f"{where}: full is what the cloud answers, and nothing else"
    if answer.quality == QUALITY_DEGRADED and not answer.reason.startswith(DEGRADED):
        yield "labels are true", f"{where}: degraded, but why?"
    unsure = answer.uncertainty is not None and answer.uncertainty > THRESHOLD
    kept = answer.quality == QUALITY_EDGE and call.mode is Mode.SEQUENTIAL
    cloud = any(tier.kind == "cloud" and watched.permits(tier) for tier in config.tiers)
    policy = config.escalation
    if kept and unsure and cloud and policy.threshold is None and policy.mode != "budget_first":
        yield "labels are true", f"{where}: unsure, and yet not escalated"

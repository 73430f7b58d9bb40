"""What one call remembers, and the ways it can end: an answer, a fallback, or one typed error."""

from __future__ import annotations

from typing import Final

from tierline import _exceptions as errors
from tierline._config import Criticality, Mode, Sovereignty
from tierline._core import escalation as escalating
from tierline._core import lessons
from tierline._core.certified import FALLBACK, REDUCED, BundleControl
from tierline._core.commands import CancelAttempt, Command, Finish
from tierline._core.control import Claim
from tierline._core.dice import Dice
from tierline._core.endings import answer_of, final_error
from tierline._core.fallback import prior_reply
from tierline._core.fleet import Fleet, TierState
from tierline._core.retrying import outcome_name
from tierline._core.running import Running
from tierline._core.sovereignty import View, gate_for
from tierline._types import QUALITY_DEGRADED, Attempt
from tierline.wire.messages import ScoreReply, ScoreRequest

SEQUENTIAL: Final = Mode.SEQUENTIAL  # as with CLOSED of the breaker
CLIENT = "client"  # the tier of an answer from the client's own fallbacks


class CallState:
    """The memory of a call and its endings; what to do next is decided in ScoreCall."""

    __slots__ = (
        "_attempts",
        "_begun",
        "_call_id",
        "_control",
        "_criticality",
        "_deadline",
        "_dice",
        "_escalated",
        "_finished",
        "_fleet",
        "_free",
        "_gate",
        "_held",
        "_held_against",
        "_held_tier",
        "_key",
        "_last_error",
        "_mode",
        "_partner",
        "_pinned",
        "_pins",
        "_pushed",
        "_refusal",
        "_request",
        "_route",
        "_running",
        "_sleeping_until",
        "_sovereignty",
        "_started",
        "_tiers",
        "_tried",
    )

    def __init__(
        self,
        request: ScoreRequest,
        fleet: Fleet,
        *,
        deadline: float,
        mode: Mode,
        key: str | None,
        call_id: str,
        dice: Dice,
        sovereignty: Sovereignty | None = None,
        criticality: Criticality = Criticality.DEFAULT,
    ) -> None:
        """``deadline`` is the absolute instant by which the call ends; ``sovereignty`` narrows the
        client's own policy for this call; ``criticality`` says who gives way when it is full."""
        self._tiers = fleet.permitted
        self._sovereignty = sovereignty
        if sovereignty is not None:
            self._tiers = [t for t in self._tiers if sovereignty.permits(t.config)]
        self._gate = gate_for(fleet.config.sovereignty, sovereignty, request)
        if self._gate is not None:
            self._tiers = [tier for tier in self._tiers if self._gate.asks(tier.config)]
        self._request = request
        self._fleet = fleet
        self._deadline = deadline
        self._mode = mode
        self._key = key
        self._call_id = call_id
        self._dice = dice
        self._criticality = criticality
        self._begun = 0.0
        self._route: list[TierState] = []
        self._running: dict[int, Running] = {}
        self._attempts: list[Attempt] = []
        self._started = 0
        self._tried: dict[str, list[str]] = {}
        self._pushed: dict[str, float] = {}  # who asked for time, and until when
        self._free = 0
        self._escalated = False
        self._held: ScoreReply | None = None
        self._held_tier = ""
        self._control: BundleControl | None = None  # of the edge bundle that answered
        self._held_against = 0.0  # the threshold its uncertainty was held against
        self._partner: str | None = None  # the cloud's bundle that belongs to the edge's
        self._pins = False  # whether attempts ask for that one: till somebody says it is gone
        self._pinned: dict[str, View] = {}  # by tier: the request for that very bundle
        self._refusal = ""
        self._last_error: errors.TierlineError | None = None
        self._sleeping_until: float | None = None
        self._finished = False

    # -- endings -----------------------------------------------------------------------------

    def _give_up(self, now: float) -> list[Command]:
        """Nobody is left to ask: held edge answer, last good answer, prior, or an error."""
        why = outcome_name(self._last_error) if self._last_error else "nobody_to_ask"
        if self._held is not None:
            if not self._refusal and self._control is not None:
                self._control.not_escalated()
            reason = self._refusal or f"escalation_failed: {self._cloud_trouble(now)}"
            return self._answer(self._held, self._held_tier, QUALITY_DEGRADED, reason, now)
        if self._key is not None:
            kept = self._fleet.last_good.answer(self._key, self._request)
            if kept is not None:
                reason = f"last_good_answer: {why}"
                return self._answer(kept, CLIENT, QUALITY_DEGRADED, reason, now)
        prior = self._fleet.priors.get(self._request.model)
        popular = prior_reply(prior, self._request) if prior is not None else None
        if popular is not None:
            reason = f"popularity_prior: {why}"
            return self._answer(popular, CLIENT, QUALITY_DEGRADED, reason, now)
        return self._fail(self._last_error, now)

    def _cloud_trouble(self, now: float) -> str:
        if self._last_error is not None:
            return outcome_name(self._last_error)
        return "deadline" if self._deadline - now < escalating.START_GATE else "nobody_to_ask"

    def _fail(self, error: errors.TierlineError | None, now: float) -> list[Command]:
        commands = self._drop_running(now, lost=False)
        self._finished = True
        reserve = self._fleet.config.timeout.reserve
        late = now >= self._deadline - reserve - escalating.START_GATE
        span = self._deadline - self._begun
        final = final_error(self._request.model, self._mode, error, late=late, span=span)
        final.attempts = tuple(self._attempts)
        final.elapsed = now - self._begun
        final.call_id = self._call_id
        final.__cause__ = error if error is not final else None
        return [*commands, Finish(None, final)]

    def _answer(
        self, reply: ScoreReply, tier: str, quality: str, reason: str, now: float
    ) -> list[Command]:
        commands = self._drop_running(now, lost=True) if self._running else []
        self._finished = True
        if self._key is not None and quality != QUALITY_DEGRADED:
            self._fleet.last_good.remember(self._key, self._request, reply)
        reduced = self._is_reduced(tier)
        if reduced:
            reason = f"{reason}; reduced_view"
        answer = answer_of(
            self._request,
            reply,
            tier=tier,
            quality=quality,
            reason=reason,
            attempts=tuple(self._attempts),
            elapsed=now - self._begun,
            claim=self._claim(tier, reduced=reduced) if self._fleet.is_paired else None,
        )
        return [*commands, Finish(answer, None)]

    def _is_reduced(self, tier: str) -> bool:
        """Whether the tier saw some field of the request not as it is."""
        if self._gate is None:
            return False
        return any(attempt.reduced for attempt in self._attempts if attempt.tier == tier)

    def _claim(self, tier: str, *, reduced: bool) -> Claim | None:
        """What the answer may say of a certificate. Only calls that let the tiers choose are what
        it is about; of those whose edge did not answer, the last edge bundle's."""
        if self._mode is not SEQUENTIAL:
            return None
        control, held_against = self._control, self._held_against
        if control is None:
            control = self._fleet.control(self._request.model).current
            if control is None:
                return None
            held_against = control.threshold
            if tier == CLIENT:
                control.lost()
            else:
                control.told(forced=False)
        if control.certificate is None:
            return None
        reasons = control.uncovered(self._request)
        if tier == CLIENT:
            reasons = (*reasons, FALLBACK)
        elif reduced:
            reasons = (*reasons, REDUCED)
        return control.claim(held_against, reasons)

    def _reason(self, running: Running, bundle: str) -> str:
        if running.kind == "escalation" or self._held is not None:
            unpinned = self._partner is not None and bundle != self._partner
            return "escalated; unpinned" if unpinned else "escalated"
        if self._mode is not SEQUENTIAL:
            return self._mode.value
        if running.tier.is_edge:
            return "certain" if any(not t.is_edge for t in self._tiers) else "no_cloud"
        if not any(tier.is_edge for tier in self._tiers):
            return "no_edge"
        why = outcome_name(self._last_error) if self._last_error else "breaker"
        return f"edge_failed: {why}"

    # -- what is sent ------------------------------------------------------------------------

    def _pin_to(self, control: BundleControl) -> None:
        """From here on ask the cloud for the bundle that belongs to this edge bundle."""
        self._partner = self._fleet.control(self._request.model).partner(control)
        self._pins = self._partner is not None

    def _view(self, tier: TierState, url: str) -> View | None:
        """All that this endpoint is shown of the request (None: the whole). One that has not said
        that it lacks the bundle of the edge's pair is asked for it."""
        view = None if self._gate is None else self._gate.view(tier.config)
        partner = self._partner
        if partner is None or not self._pins or tier.is_edge:
            return view
        if not self._fleet.control(self._request.model).is_to_be_had(url, partner):
            return view
        pinned = self._pinned.get(tier.name)
        if pinned is None:
            request = (self._request if view is None else view.request)._replace(version=partner)
            whole = View(request, (), (), ())
            pinned = whole if view is None else view._replace(request=request)
            self._pinned[tier.name] = pinned
        return pinned

    # -- bookkeeping -------------------------------------------------------------------------

    def _settle(self, number: int, running: Running, outcome: str, now: float) -> None:
        del self._running[number]
        running.endpoint.inflight -= 1
        self._attempts.append(running.ended(number, outcome, self._begun, now))

    def _drop_running(self, now: float, *, lost: bool) -> list[Command]:
        """Take back every attempt that is out: no verdict, every place given back. What has lost to
        another attempt is remembered as censored; nothing is when the caller has gone."""
        commands: list[Command] = []
        for number, running in list(self._running.items()):
            lessons.abandoned(running, now, lost=lost)
            self._settle(number, running, "abandoned", now)
            commands.append(CancelAttempt(number))
        return commands

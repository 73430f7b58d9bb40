"""When each endpoint's health is probed, with what, and what its answers mean.

A probe is a whole score call to one endpoint: a golden request where there is one, else the last
request that the endpoint's own tier has answered, exactly as that tier saw it, so that a probe
never shows anybody what it was not shown before. Idle endpoints are probed like busy ones: a
standby is known to work before it is needed, and a primary that came back is known to be back.
Probes take an endpoint out and bring it back; what real calls have shown stands beside that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from tierline import _exceptions as errors
from tierline._config import HealthPolicy, Sovereignty
from tierline._core.dice import Dice
from tierline._core.endings import wrong_answer
from tierline._core.endpoints import EndpointState
from tierline._core.fleet import Fleet
from tierline._core.retrying import Fault, fault_of
from tierline._core.semantic import Golden, drift
from tierline._core.sovereignty import gate_for
from tierline._core.tiers import TierState
from tierline._core.timeouts import LOST, stood_still
from tierline.wire.messages import ScoreReply, ScoreRequest

MODELS = 8  # models a tier is probed with, in turn; the least lately asked are forgotten


class Probe(NamedTuple):
    """Ask this request at ``url`` within ``timeout`` seconds, and report what came of it."""

    target: int
    number: int
    url: str
    request: ScoreRequest
    timeout: float
    golden: Golden | None
    until: float  # the instant at which its timeout ends


class Target:
    """One endpoint, as the probes see it."""

    __slots__ = ("asked", "bad", "due", "endpoint", "good", "is_down", "tier")

    def __init__(self, tier: TierState, endpoint: EndpointState, due: float) -> None:
        self.tier = tier
        self.endpoint = endpoint
        self.due = due
        self.asked = 0
        self.good = 0  # in a row
        self.bad = 0  # in a row
        self.is_down = False


class Prober:
    """The schedule of all probes of a client, and their verdicts. Told the time, handed the dice.

    For every target in ``targets`` a shell calls ``probe`` at the instant ``due`` names, sends what
    it returns, and reports ``answered`` or ``failed``. A probe whose shell was stopped is reported
    as nothing at all.
    """

    def __init__(self, fleet: Fleet, policy: HealthPolicy, golden: Sequence[Golden] = ()) -> None:
        self._fleet = fleet
        self._policy = policy
        self._golden = golden
        self._seen: dict[str, OrderedDict[str, ScoreRequest]] = {}  # tier → model → last request
        self.targets = [
            Target(tier, endpoint, 0.0) for tier in fleet.permitted for endpoint in tier.endpoints
        ]

    def remember(self, tier: str, request: ScoreRequest) -> None:
        """A tier has answered this request, which is just as the tier saw it."""
        seen = self._seen.get(tier)
        if seen is None:
            seen = self._seen[tier] = OrderedDict()
        # A pinned version is the caller's wish, not the probe's: it would outlive the bundle.
        seen[request.model] = request if request.version is None else request._replace(version=None)
        seen.move_to_end(request.model)
        if len(seen) > MODELS:
            seen.popitem(last=False)

    def begin(self, now: float, dice: Dice) -> None:
        """Probes start now, spread over the first interval so that no two clients are in step."""
        for target in self.targets:
            target.due = now + dice.random() * self._policy.interval

    def due(self, target: int) -> float:
        """The instant at which this target is to be probed next."""
        return self.targets[target].due

    def probe(self, target: int, now: float, dice: Dice) -> Probe | None:
        """What to ask it now; None while nothing was ever asked of its tier."""
        spot, policy = self.targets[target], self._policy
        spot.due = now + policy.interval * (1.0 + policy.jitter * (2.0 * dice.random() - 1.0))
        known = self._questions(spot.tier)
        if not known:
            return None
        request, golden = known[spot.asked % len(known)]
        spot.asked += 1
        until = now + policy.timeout
        return Probe(target, spot.asked, spot.endpoint.url, request, policy.timeout, golden, until)

    def _questions(self, tier: TierState) -> list[tuple[ScoreRequest, Golden | None]]:
        questions: list[tuple[ScoreRequest, Golden | None]] = []
        for golden in self._golden:
            shown = _as_seen(golden.request, self._fleet.config.sovereignty, tier)
            if shown is not None:
                # What the tier may see only in part cannot give the golden answer.
                questions.append((shown, golden if shown is golden.request else None))
        answered = {request.model for request, _ in questions}
        for request in self._seen.get(tier.name, {}).values():
            if request.model not in answered:
                questions.append((request, None))
        return questions

    def answered(self, probe: Probe, reply: ScoreReply, now: float, dice: Dice) -> None:
        """The endpoint answered: rightly, or not."""
        endpoint, model = self.targets[probe.target].endpoint, probe.request.model
        semantic, url = self._fleet.semantic, endpoint.url
        wrong = wrong_answer(probe.request, reply) is not None
        drifted = not wrong and probe.golden is not None and bool(drift(probe.golden, reply))
        if not wrong and not drifted:
            if not semantic.is_clear and (needed := self._known(probe, reply.bundle)):
                semantic.proven(model, reply.bundle, url, now, needed=needed)
            endpoint.served(model).bundle = reply.bundle
            self._good(probe, now)
            return
        jitter = dice.random()
        blamed = semantic.wrong(model, reply.bundle, url, now, jitter, golden=drifted)
        endpoint.served(model).bundle = reply.bundle
        if not blamed:
            self._bad(probe, now)

    def _known(self, probe: Probe, bundle: str) -> int:
        """How many golden requests there are for the bundle that has answered this one; 0 when the
        answer could not be compared."""
        if probe.golden is None or probe.golden.reply.bundle != bundle:
            return 0
        return sum(golden.reply.bundle == bundle for golden in self._golden)

    def failed(self, probe: Probe, error: errors.TierlineError, now: float) -> None:
        """The probe came to nothing. Who refuses for load, or does not have the model, is alive;
        what is heard of long after its time may be this process's own doing."""
        if isinstance(error, LOST) and stood_still(probe.until, probe.timeout, now):
            return
        if fault_of(error) in (Fault.ENDPOINT, Fault.NEVER_SENT):
            self._bad(probe, now)

    def _good(self, probe: Probe, now: float) -> None:
        target = self.targets[probe.target]
        target.good, target.bad = target.good + 1, 0
        if target.good < self._policy.up_after:
            return
        if target.is_down:
            target.is_down = False
            target.endpoint.standing.probed(down=False, now=now)
        target.endpoint.breaker(probe.request.model).hasten(now)

    def _bad(self, probe: Probe, now: float) -> None:
        target = self.targets[probe.target]
        target.good, target.bad = 0, target.bad + 1
        if target.bad >= self._policy.down_after and not target.is_down:
            target.is_down = True
            target.endpoint.standing.probed(down=True, now=now)


def _as_seen(request: ScoreRequest, policy: Sovereignty, tier: TierState) -> ScoreRequest | None:
    """A golden request as the tier may see it, or None."""
    gate = gate_for(policy, None, request)
    if gate is None:
        return request
    return gate.view(tier.config).request if gate.asks(tier.config) else None

"""What a client knows of certificates: which edge bundle has one, whether it is about what runs,
and what there is to find out about it once callers have been answered.

A bundle's certificate comes with its description, asked for once; what the cloud serves, every
answer of the cloud says. So no call carries a byte for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tierline._config import EscalationPolicy, Sovereignty
from tierline._core.control import EscalationBucket, EscalationControl
from tierline._core.shadow import RiskAlarm, ShadowPlan, disagreement
from tierline._types import Answer, EscalationReport
from tierline.certificate import Certificate, Subject
from tierline.wire.messages import ScoreReply, ScoreRequest

REMEMBERED: Final = (
    8  # edge bundles of one model: a roll-out mixes two, a roll-back brings one back
)
ASK_AGAIN: Final = 30.0  # seconds after a description that could not be had
SHADOW_BURST: Final = 5.0  # shadow calls beyond their share that a run of calls may send
WAITING: Final = 64  # errands that may wait: more are not taken on
DIGEST: Final = 12  # hex digits of a bundle's digest in its id
UNKNOWN: Final = ("no cloud has said yet which bundle it serves",)
CHANGED: Final = ("the cloud changed since calibration",)
RANG: Final = "the loss of shadowed calls is above the bound"
CANDIDATES: Final = "it is about recommendations from the whole catalogue, not given candidates"
REDUCED: Final = "the data policy kept fields of this call from a tier"
FALLBACK: Final = "neither tier answered this call"


class Learn(NamedTuple):
    """Ask this endpoint what it serves. ``bundle`` is the edge bundle it is about, "" for a cloud's
    endpoint."""

    model: str
    url: str
    bundle: str


class Shadow(NamedTuple):
    """Show a kept call to the cloud; ``reply`` is what its caller was given."""

    request: ScoreRequest
    sovereignty: Sovereignty | None
    control: BundleControl
    reply: ScoreReply
    bound: float


Errand = Learn | Shadow


class BundleControl(EscalationControl):
    """The control of one edge bundle; it learns the certificate from the bundle's description."""

    __slots__ = ("_k", "_kind", "_shadow", "bundle", "learn_at", "running")

    def __init__(
        self, policy: EscalationPolicy, bundle: str, *, stated: float | None, cap: EscalationBucket
    ) -> None:
        super().__init__(policy, stated=stated, bucket=cap)
        self.bundle = bundle
        self.learn_at = -math.inf  # from when on its description is to be asked for
        self.running: Subject | None = None
        self._kind = ""
        self._k = 0
        self._shadow = policy.shadow

    def describe(self, description: Mapping[str, Any]) -> None:  # Any: JSON
        """Take what an endpoint says of the bundle. A certificate that cannot be read is none."""
        self.learn_at = math.inf
        details = description.get("details")
        if not isinstance(details, Mapping) or details.get("certificate") is None:
            return
        try:
            certificate = Certificate.from_json(details["certificate"])
            said = dict(details["subject"])
            running = Subject(**said, cloud=certificate.subject.cloud)
            k = int(certificate.loss.rpartition("@")[2])  # "…@10": a loss of lists of ten
        except (KeyError, TypeError, ValueError):
            return
        if k < 1:
            return
        self.running, self.certificate, self._k = running, certificate, k
        self._kind = str(description.get("kind"))
        self._watch(certificate)

    def _watch(self, certificate: Certificate) -> None:
        threshold = self.threshold
        if self._policy.mode == "budget_first":  # about where the budget will take it
            kept = (p for p in certificate.curve if p.escalation <= self._policy.budget)
            threshold = next(kept).threshold
        if self._shadow:
            plan = ShadowPlan.of(certificate, threshold=threshold, rate=self._shadow)
            if plan is not None:
                bound = self.bound(threshold)
                self.alarm = RiskAlarm(plan, alpha=bound, delta=certificate.delta)

    def uncovered(self, request: ScoreRequest) -> tuple[str, ...]:
        """Why the certificate says nothing of such a call; () when it does."""
        if request.k is not None:
            if request.k >= self._k:
                return ()
            return (f"it is about lists of {self._k} items, not of {request.k}",)
        return (CANDIDATES,) if self._kind == "sequence" else ()

    def report(self) -> EscalationReport:
        """What there is to tell of it now."""
        policy, claim = self._policy, self.claim(self.threshold)
        return EscalationReport(
            mode=policy.mode,
            bundle=self.bundle,
            threshold=self.threshold,
            demanded=self.demanded if policy.moves else None,
            forced=self.forced,
            overspends=self.overspends,
            revoked=self.is_revoked,
            log_wealth=None if self.alarm is None else self.alarm.log_wealth,
            certificate=None if claim is None else claim.status(),
        )

    def saw(self, shadow: Shadow, answer: Answer | None) -> None:
        """The cloud has answered a shadowed call, or (None) has not: then nothing is learnt."""
        if self.alarm is None or answer is None or self.changes or self.is_revoked:
            return
        reply, k = shadow.reply, self._k
        if reply.items is not None and answer.items is not None:
            served, cloud = reply.items[:k].tolist(), answer.items[:k].tolist()
        else:
            served = (-reply.scores).argsort(kind="stable")[:k].tolist()
            cloud = answer.order[:k].tolist()
        doubt = reply.uncertainty if reply.uncertainty is not None else 1.0
        self.alarm.saw_kept(doubt, shadow.bound, loss=disagreement(served, cloud))
        if self.alarm.alarmed:
            self.revoke(RANG)


class ModelControl:
    """One model: the controls of its edge bundles, and what each endpoint of the cloud serves."""

    __slots__ = ("_absent", "_bundles", "_cap", "_policy", "_seen", "clouds", "current", "shadows")

    def __init__(self, policy: EscalationPolicy, cap: EscalationBucket) -> None:
        self._policy = policy
        self._cap = cap
        self._bundles: dict[str, BundleControl] = {}
        self.clouds: dict[str, str] = {}  # by URL
        self._seen: dict[str, str] = {}  # the cloud's bundles that have answered, by digest
        self._absent: dict[str, str] = {}  # by URL, the bundle of a pair it said it has not
        self.current: BundleControl | None = None  # of the edge's last answer
        self.shadows = EscalationBucket(policy.shadow, burst=SHADOW_BURST)

    def of(self, bundle: str, stated: float | None) -> BundleControl:
        """The control of the edge bundle that answered."""
        current = self.current
        if current is not None and current.bundle == bundle and current.stated is not None:
            return current
        control = self._bundles.get(bundle)
        if control is None:
            control = BundleControl(self._policy, bundle, stated=stated, cap=self._cap)
            self._bundles[bundle] = control
            if len(self._bundles) > REMEMBERED:
                del self._bundles[next(iter(self._bundles))]
        if control.stated is None:
            control.stated = stated
        self.current = control
        return control

    def edge_described(self, bundle: str, description: Mapping[str, Any]) -> None:  # Any: JSON
        """What an edge endpoint says of the bundle it serves."""
        stated = description.get("threshold")
        threshold = float(stated) if isinstance(stated, int | float) else None
        control = self._bundles.get(bundle) or self.of(bundle, threshold)
        control.describe(description)
        self._hold_against(control)

    def cloud_answered(self, url: str, bundle: str) -> None:
        """A cloud's endpoint has answered from this bundle."""
        if self.clouds.get(url) == bundle:
            return
        self.clouds[url] = bundle
        self._seen[bundle.rpartition("@")[2]] = bundle
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if self._absent.get(url) == bundle:
            del self._absent[url]
        for control in self._bundles.values():
            self._hold_against(control)

    def partner(self, control: BundleControl) -> str | None:
        """The cloud's bundle that belongs to this edge bundle: which one its certificate says; None
        without one, and until a cloud has once answered from it."""
        certificate = control.certificate
        return None if certificate is None else self._seen.get(certificate.subject.cloud[:DIGEST])

    def cloud_lacks(self, url: str, bundle: str) -> None:
        """A cloud's endpoint has said that it does not have this bundle (any more)."""
        self._absent[url] = bundle
        if self.clouds.get(url) == bundle:
            del self.clouds[url]  # its next answer tells

    def is_to_be_had(self, url: str, bundle: str) -> bool:
        """Whether the endpoint may be asked for it: as far as it has not said no."""
        return self._absent.get(url) != bundle

    def _hold_against(self, control: BundleControl) -> None:
        certificate, running = control.certificate, control.running
        if certificate is None or running is None:
            return
        changes = certificate.changes(running)
        wanted = certificate.subject.cloud[:DIGEST]
        if not self.clouds:
            changes += UNKNOWN
        elif any(bundle.rpartition("@")[2] != wanted for bundle in self.clouds.values()):
            changes += CHANGED
        control.changes = changes

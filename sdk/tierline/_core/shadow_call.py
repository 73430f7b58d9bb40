"""The call that shows a kept one to the cloud: one attempt, the first to give way, no fallback."""

from __future__ import annotations

from tierline import _exceptions as errors
from tierline._config import Criticality, Mode
from tierline._core.breaker import Breaker, Permit, State
from tierline._core.call import ScoreCall
from tierline._core.certified import Shadow
from tierline._core.commands import Command
from tierline._core.dice import Dice
from tierline._core.endpoints import Served
from tierline._core.estimators import LatencyWindow
from tierline._core.fleet import Fleet, TierState
from tierline._core.running import Running


class ShadowCall(ScoreCall):
    """Goes through the order of composition like any call, but earns and spends no budget (its
    share was settled when it was drawn), probes no breaker, and is not repeated."""

    __slots__ = ()

    @classmethod
    def of(
        cls, shadow: Shadow, fleet: Fleet, *, deadline: float, call_id: str, dice: Dice
    ) -> ShadowCall:
        """The call for one that was kept; its own policy on data holds for it too."""
        call = cls(
            shadow.request,
            fleet,
            deadline=deadline,
            mode=Mode.CLOUD_ONLY,
            key=None,
            call_id=call_id,
            dice=dice,
            sovereignty=shadow.sovereignty,
            criticality=Criticality.SHEDDABLE,
        )
        if shadow.request.version is None:
            call._pin_to(shadow.control)
        return call

    def begin(self, now: float) -> list[Command]:
        """The first of the cloud's tiers that may see it."""
        self._begun = now
        cloud = [tier for tier in self._tiers if not tier.is_edge]
        self._route = self._by_priority(cloud, now) if cloud else []
        return self._next_attempt("first", now)

    def _pays(self, kind: str, tier: TierState, now: float) -> bool:
        return self._started == 0

    def _permits(
        self, served: Served, now: float, lease: float
    ) -> tuple[Permit, tuple[Breaker, Permit] | None] | None:
        if served.breaker.state is not State.CLOSED:
            return None
        return super()._permits(served, now, lease)

    def _plan_hedge(self, tier: TierState, latencies: LatencyWindow, now: float) -> list[Command]:
        return []

    def _after_failure(
        self, failed: Running, error: errors.TierlineError, now: float
    ) -> list[Command]:
        return self._give_up(now)

    def _give_up(self, now: float) -> list[Command]:
        return self._fail(self._last_error, now)

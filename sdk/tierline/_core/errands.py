"""Posts what there is to do once callers have been answered: ask what an endpoint serves, or show a
kept call to the cloud. A shell does it later, never on the caller's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tierline._core.certified import ASK_AGAIN, WAITING, BundleControl, Learn, Shadow
from tierline._core.dice import Dice

if TYPE_CHECKING:
    from tierline._core.fleet import Fleet
    from tierline._core.tiers import TierState


def post_learning(fleet: Fleet, model: str, url: str, control: BundleControl, now: float) -> None:
    """Have this edge endpoint asked for its bundle's certificate, and the cloud for its bundles."""
    if len(fleet.errands) >= WAITING:
        return
    control.learn_at = now + ASK_AGAIN
    fleet.errands.append(Learn(model, url, control.bundle))
    post_clouds(fleet, model)


def post_clouds(fleet: Fleet, model: str) -> None:
    """Have one endpoint of every cloud tier asked for its bundle, as far as no answer has told it
    yet."""
    known = fleet.control(model).clouds
    firsts = [tier.endpoints[0].url for tier in fleet.permitted if not tier.is_edge]
    fleet.errands.extend(Learn(model, cloud, "") for cloud in firsts if cloud not in known)


def post_shadow(
    fleet: Fleet,
    shadow: Shadow,
    cloud: Sequence[TierState],
    *,
    kept: bool,
    dice: Dice,
    now: float,
) -> None:
    """Tell the alarm of this call, or have it shown to ``cloud`` first.

    Whether it could be shown is settled before the dice are rolled: a call that could not is not
    told at all, or the estimate would lean to what was expected.
    """
    control, model = shadow.control, shadow.request.model
    alarm, doubt = control.alarm, shadow.reply.uncertainty
    if alarm is None or doubt is None or control.changes or control.is_revoked:
        return
    shadows = fleet.control(model).shadows
    shadows.earn()
    if not kept:
        alarm.saw_escalated(shadow.bound)
        return
    room = any(tier.has_room(model, now) for tier in cloud)
    if not room or not shadows.has_one or len(fleet.errands) >= WAITING:
        return
    if alarm.draws(doubt, dice):
        shadows.withdraw()
        fleet.errands.append(shadow)
    else:
        alarm.saw_kept(doubt, shadow.bound, loss=None)

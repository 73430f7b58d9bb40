"""A server lives forward: starting, ready, draining, stopped."""

from __future__ import annotations

import pytest

from tierline_serving.lifecycle import TRANSITIONS, Event, Lifecycle, Phase


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_a_step_is_in_the_table_or_raises_and_changes_nothing(phase: Phase, event: Event) -> None:
    life = Lifecycle()
    life.phase = phase
    expected = TRANSITIONS.get((phase, event), phase)
    if (phase, event) in TRANSITIONS:
        life.on(event)
    else:
        with pytest.raises(ValueError, match="cannot take the event"):
            life.on(event)
    assert life.phase is expected


@pytest.mark.parametrize(
    ("phase", "ready", "works", "leaves"),
    [
        (Phase.STARTING, False, False, False),
        (Phase.READY, True, True, False),
        (Phase.DRAINING, False, True, True),
        (Phase.STOPPED, False, False, True),
    ],
)
def test_what_each_phase_lets_a_server_do(
    phase: Phase, ready: bool, works: bool, leaves: bool
) -> None:
    life = Lifecycle()
    life.phase = phase
    assert (life.is_ready, life.takes_work, life.asks_to_leave) == (ready, works, leaves)

"""What a fleet carries: an open-loop ramp up to the first step whose tail is too long, then down to
a rate that it holds for longer than a step: a short one may have been lucky."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tierline_drills.errors import DrillError
from tierline_drills.load import Load
from tierline_drills.recent import Tail
from tierline_drills.records import Call
from tierline_drills.statistics import percentile
from tierline_drills.timeline import is_good

FIRST = 40.0  # calls a second
FACTOR = 1.25  # so far apart are two steps: the capacity is known to a quarter
STEP = 1.5  # seconds of each
HOLD = 4.0  # seconds that what is carried was held for
SETTLING = 0.3  # of these the first seconds are not looked at: the step before still echoes
TAIL = 0.2  # of the deadline: a p99 above that is too long
MOST = 5000.0  # calls a second; what carries more is not measured with two processes


@dataclass(slots=True)
class Ramp:
    """Decides the rates. ``carried`` is the last one whose calls were all good, p99 included, in a
    step and then for HOLD seconds. On the way up one step may be a hiccup of the machine's: it is
    repeated once."""

    deadline: float
    rate: float = FIRST
    carried: float = 0.0
    is_held: bool = False  # whether the next step is one of HOLD seconds, at what was carried
    _doubted: bool = False

    def step(self, calls: Sequence[Call]) -> bool:
        """Judge the calls of a step at ``rate``; whether to go on, at the ``rate`` it then has."""
        tail = percentile([call.latency for call in calls], 0.99)
        good = all(is_good(call, self.deadline) and call.quality != "degraded" for call in calls)
        is_carried = tail is not None and good and tail <= TAIL * self.deadline
        if self.is_held:
            return not is_carried and self._down()
        if is_carried and self.rate <= MOST:
            self._doubted = False
            self.carried, self.rate = self.rate, self.rate * FACTOR
            return True
        if not self._doubted and self.rate <= MOST:
            self._doubted = True
            return True
        self.is_held, self.rate = True, self.carried
        return self.carried > 0.0

    def _down(self) -> bool:
        """A step back; False when there is none."""
        is_first = self.carried < FIRST * FACTOR
        self.carried = self.rate = 0.0 if is_first else self.carried / FACTOR
        return not is_first


def measure(load: Load, deadline: float, start: float, now: Callable[[], float]) -> float:
    """The calls a second a fleet carries with a p99 of at most TAIL of the deadline. ``load``
    belongs to the ramp alone and begins at ``start``. Raises DrillError when even the first step is
    too much."""
    ramp = Ramp(deadline)
    tails = [Tail(path) for path in load.logs]
    load.start()
    load.set_rate(ramp.rate)
    time.sleep(max(0.0, start - now()) + STEP)  # the first calls warm everything up
    try:
        going, calls = True, list[Call]()
        while going:
            load.set_rate(ramp.rate)
            begin = now() + SETTLING
            time.sleep(HOLD if ramp.is_held else STEP)
            end = now() - deadline  # what was due since may still be under way
            time.sleep(0.1)  # until the clients have written down what ended
            calls += [call for tail in tails for call in tail.calls()]
            calls = [call for call in calls if call.due >= begin]
            going = ramp.step([call for call in calls if call.due < end])
    finally:
        load.stop()
    if ramp.carried == 0.0:
        raise DrillError(f"the fleet does not carry {FIRST:g} calls a second; no load can be set")
    return ramp.carried

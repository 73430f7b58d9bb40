"""Deterministic simulation for your own tests: a client in virtual time, a fleet that fails.

>>> from tierline.testing import simulate
>>> run = simulate(config, faults=["crash", "latency"], seed=7)
>>> run.check()  # raises PropertyFailed, with the line that reproduces it, when a promise broke
"""

from tierline.testing.faults import (
    Fault,
    FaultKind,
    Schedule,
    draw_schedule,
    read_schedule,
    write_schedule,
)
from tierline.testing.load import Load, PlannedCall, draw_load, steady_load, typical_load
from tierline.testing.loop import Deadlock, SimLoop
from tierline.testing.nodes import NodeProfile
from tierline.testing.outcome import Outcome, Violation
from tierline.testing.scenario import draw_plan, run_seed
from tierline.testing.shrinking import check, shrink
from tierline.testing.simulation import Plan, Property, PropertyFailed, Run, run_plan, simulate
from tierline.testing.trace import Trace, TraceEvent

__all__ = [
    "Deadlock",
    "Fault",
    "FaultKind",
    "Load",
    "NodeProfile",
    "Outcome",
    "Plan",
    "PlannedCall",
    "Property",
    "PropertyFailed",
    "Run",
    "Schedule",
    "SimLoop",
    "Trace",
    "TraceEvent",
    "Violation",
    "check",
    "draw_load",
    "draw_plan",
    "draw_schedule",
    "read_schedule",
    "run_plan",
    "run_seed",
    "shrink",
    "simulate",
    "steady_load",
    "typical_load",
    "write_schedule",
]

"""Disaster-recovery drills: real processes, real faults, and every figure from one raw log."""

from tierline_drills.errors import BadExperiment, BadLog, DrillError
from tierline_drills.experiment import Experiment, read_experiment
from tierline_drills.records import Log, read_log
from tierline_drills.report import report

__all__ = [
    "BadExperiment",
    "BadLog",
    "DrillError",
    "Experiment",
    "Log",
    "read_experiment",
    "read_log",
    "report",
]

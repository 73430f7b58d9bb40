"""What can be wrong with a drill, in types: its file, its log, or the machine it runs on."""

from __future__ import annotations

from tierline import TierlineError


class DrillError(TierlineError):
    """A drill could not be carried out; the sentence says what to do."""


class BadExperiment(DrillError):
    """An experiment file says something we cannot carry out. Names the place in the file."""


class BadLog(DrillError):
    """A line of a raw log is not what the format says. Names the line."""


class NotHere(DrillError):
    """This machine cannot do that (no root, no such kernel feature): the drill is skipped."""

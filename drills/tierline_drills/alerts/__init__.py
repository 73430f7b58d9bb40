"""Alerts: which fire, which are repeats, the body each receiver wants, and its delivery."""

from tierline_drills.alerts.deliver import Receiver, deliver
from tierline_drills.alerts.rules import Alert, Observed, Rules
from tierline_drills.alerts.shapes import SHAPES, body_for

__all__ = ["SHAPES", "Alert", "Observed", "Receiver", "Rules", "body_for", "deliver"]

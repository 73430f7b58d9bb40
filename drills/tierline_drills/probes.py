"""Probes an experiment may name: what callers see now, who is ready, what is whole."""

from __future__ import annotations

from tierline_drills import storage
from tierline_drills.control import current
from tierline_drills.timeline import is_good


def answered(seconds: float = 3.0) -> float:
    """The share of the calls of the last ``seconds`` (at most 60) that were answered rightly and in
    time, at any quality; 0 when nobody called."""
    session = current()
    recent = session.recent.last(seconds, session.now())
    deadline = float(session.load_settings.get("deadline", 0.25))
    return sum(is_good(call, deadline) for call in recent) / len(recent) if recent else 0.0


def wrong_answers() -> int:
    """How many wrong answers reached callers."""
    return current().recent.wrong_answers


def ready(node: str) -> bool:
    """Whether a node says that it is ready."""
    return current().fleet.is_ready(node)


def registry_whole() -> bool:
    """Whether every channel of the registry names a sound bundle."""
    session = current()
    if session.registry is None or session.shop is None:
        return False
    return not storage.damage(session.registry, session.shop.trust)


def serving(node: str) -> str:
    """The bundle a node serves."""
    return current().fleet.serving(node)

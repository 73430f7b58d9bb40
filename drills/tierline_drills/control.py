"""The Chaos Toolkit control that starts a drill before an experiment and ends it after it.

Works under `tierline drill run` and under the stock `chaos run` alike: both call these functions by
name around the experiment. One drill runs in a process at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tierline_drills.errors import DrillError
from tierline_drills.experiment import OWN
from tierline_drills.session import Session, Setup

_current: list[Session] = []


def current() -> Session:
    """The drill that runs now. Raises DrillError outside of one."""
    if not _current:
        raise DrillError(
            "no drill is running; the experiment needs the control tierline_drills.control"
        )
    return _current[-1]


def before_experiment_control(
    context: Mapping[str, Any],
    out: str = "drill-results",
    work: str = "",
    own: Mapping[str, Any] | None = None,
    negative: bool = False,
    id: str = "",
    name: str = "",
) -> None:
    """Start the fleet and the load the experiment describes. ``own`` replaces its extension."""
    extensions = context.get("extensions") or []
    described: Mapping[str, Any] = next((one for one in extensions if one.get("name") == OWN), {})
    settings: dict[str, Any] = {
        "id": id or slug(str(context.get("title", "drill"))),
        "title": str(context.get("title", "drill")),
        "hypothesis": str((context.get("steady-state-hypothesis") or {}).get("title", "")),
        "own": own if own is not None else described,
        "out": Path(out).resolve(),
        "negative": negative,
        "name": name,
    }
    if work:
        settings["work"] = Path(work).resolve()
    session = Session(Setup(**settings))
    _current.append(session)
    try:
        session.start()
    except BaseException:
        session.close()
        _current.remove(session)
        raise


def after_experiment_control(context: Mapping[str, Any], state: Any = None) -> None:
    """Let the load run on for a while, end every process, write the raw log."""
    if not _current:
        return
    session = _current[-1]
    if isinstance(state, dict):
        why = state.get("why")
        if state.get("status") == "aborted":
            session.tell("stop", str(why))
    try:
        if isinstance(state, dict) and state.get("status") in ("interrupted", "skipped"):
            return
        place = session.finish()
        if isinstance(state, dict):
            state.setdefault("extensions", {})["tierline-log"] = str(place)
    finally:
        session.close()
        _current.remove(session)


def cleanup_control() -> None:
    """End whatever is left."""
    while _current:
        _current.pop().close()


def slug(title: str) -> str:
    """A title as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "drill"

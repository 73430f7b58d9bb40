"""Whose request crosses the simulated wire: told beside the wire, which may keep it to itself."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

NOBODYS: Final = 0  # a description that was fetched, or a probe of health
SHADOWS: Final = -1  # a kept call that is shown to the cloud

WHOSE: ContextVar[int] = ContextVar(
    "tierline_simulated_call", default=NOBODYS
)  # or a call's number
# Whether that call's caller asked for a version; a client may ask for the edge's pair by itself,
# and then takes another bundle's answer too, and says so.
PINNED: ContextVar[bool] = ContextVar("tierline_simulated_pin", default=False)

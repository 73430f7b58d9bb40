"""How long calls may have waited unread when the loop reads them. Pure: told what it did.

The loop looks for callers once a turn. What is there at its next look came while it worked: read
the callers, scored, answered. A caller's deadline runs meanwhile, so a call counts as arrived
when that work began: the earliest it can have come.
"""

from __future__ import annotations


class Turns:
    """The loop's turns, as its callers and its batches show them."""

    __slots__ = ("_began", "_busy", "_is_open", "_waited")

    def __init__(self) -> None:
        self._is_open = False
        self._began = 0.0  # when the first call of this turn was read
        self._busy = 0.0  # seconds of work since
        self._waited = 0.0  # seconds a call read in this turn may have waited for it

    def opens(self, now: float) -> bool:
        """A call is about to be read; True for the first of a turn, which ``over`` ends."""
        if self._is_open:
            return False
        self._waited, self._busy = self._busy, 0.0
        self._began = now
        self._is_open = True
        return True

    @property
    def since(self) -> float:
        """The earliest instant a call read in this turn can have come."""
        return self._began - self._waited

    def over(self, now: float) -> None:
        """The loop has read all there was, and goes on to score and answer."""
        self._is_open = False
        self._busy += now - self._began

    def worked(self, seconds: float) -> None:
        """The loop has scored and answered for so long, after it had read."""
        if not self._is_open:  # else ``over`` counts it
            self._busy += seconds

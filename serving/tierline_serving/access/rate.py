"""How often one key may ask: a token bucket. Pure: told the time."""

from __future__ import annotations


class RateLimit:
    """``rate`` requests a second, ``burst`` of them at once; full at the start."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> float | None:
        """Take one request's leave: None when granted, else the seconds until there is one."""
        if now > self._at:
            self._left = min(self.burst, self._left + (now - self._at) * self.rate)
            self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return None
        return (1.0 - self._left) / self.rate

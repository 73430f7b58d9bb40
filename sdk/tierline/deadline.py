"""A deadline: one absolute instant on the monotonic clock; on the wire, what remains of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEADLINE_HEADER = "x-tierline-deadline-ms"


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant (seconds on a monotonic clock) after which nobody wants the answer."""

    at: float

    @classmethod
    def after(cls, timeout: float, *, now: float) -> Deadline:
        """The instant ``timeout`` seconds from ``now``. Raises ValueError unless positive."""
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"a deadline must be a positive number of seconds, got {timeout!r}")
        return cls(now + timeout)

    @classmethod
    def from_header(cls, text: str, *, now: float) -> Deadline:
        """Read the remaining milliseconds a client sent. Raises ValueError when it is no number."""
        remaining_ms = float(text)
        if not math.isfinite(remaining_ms):
            raise ValueError(f"{DEADLINE_HEADER} must be finite, got {text!r}")
        return cls(now + remaining_ms / 1000.0)

    def remaining(self, now: float) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - now

    def has_passed(self, now: float) -> bool:
        return now >= self.at

    def header(self, now: float) -> str:
        """What remains, in milliseconds, never negative: clocks of two machines never meet."""
        return f"{max(0.0, (self.at - now) * 1000.0):.3f}"

"""When a worker that died is started again. Pure: told how long it lived."""

from __future__ import annotations

from typing import Final

FIRST_WAIT: Final = 0.1  # seconds; doubles for each worker of a place that dies young
LONGEST_WAIT: Final = 10.0
GROWN_UP: Final = 30.0  # seconds a worker must live for its place to count as sound again


class Respawn:
    """One worker's place: what died there, and how soon."""

    def __init__(self) -> None:
        self.deaths = 0
        self._young = 0

    def died(self, lived: float) -> float:
        """A worker died after ``lived`` seconds; seconds to wait before the next is started."""
        self.deaths += 1
        self._young = 0 if lived >= GROWN_UP else self._young + 1
        if not self._young:
            return 0.0
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self._young - 1, 20)))

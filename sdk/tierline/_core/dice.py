"""The dice the core is handed: whatever gives numbers in [0, 1). random.Random fits."""

from __future__ import annotations

from typing import Protocol


class Dice(Protocol):
    def random(self) -> float: ...

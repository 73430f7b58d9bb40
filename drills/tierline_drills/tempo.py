"""How fast a client calls now, and what each of its calls is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOLDEN = 0.6180339887498949  # its multiples are spread evenly: every stretch has its share of all


class Tempo:
    """The calls a second of the whole group: a plan's ``rate`` until its file ``tempo`` names
    another. Reads that file at every question: a few microseconds, and no watcher."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._rate = float(plan["rate"])
        self._place = Path(plan["tempo"]) if plan.get("tempo") else None

    def rate(self) -> float:
        """Now."""
        if self._place is not None:
            with contextlib.suppress(FileNotFoundError):  # not there: as before
                self._rate = max(0.1, float(self._place.read_text(encoding="utf-8")))
        return self._rate


def set_tempo(place: Path, rate: float) -> None:
    """Let every client whose plan names this file call so many times a second together."""
    staged = place.with_suffix(".new")
    staged.write_text(f"{rate:g}", encoding="utf-8")
    staged.replace(place)


def class_of(number: int, shares: Mapping[str, float]) -> str:
    """The class of a call of this number, so that each class has its share of any stretch of
    calls. Without shares every call is "default"."""
    place = (number * GOLDEN) % 1.0 * sum(shares.values())
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return "default"

"""What callers saw lately, from the logs that their processes are still writing; each line is read
once, so that watching takes as little of the machine late in a drill as at its beginning."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tierline_drills.errors import BadLog, DrillError
from tierline_drills.records import EXPERIMENT, Call, read_line

KEPT: Final = 60.0  # seconds of calls that can be looked back on


@dataclass(slots=True)
class Tail:
    """New whole lines of a file that grows."""

    path: Path
    _offset: int = 0
    _rest: str = ""

    def calls(self) -> list[Call]:
        """The calls of the experiment group written since the last time."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as file:
            file.seek(self._offset)
            text = self._rest + file.read()
            self._offset = file.tell()
        *whole, self._rest = text.split("\n")
        found = []
        for line in whole:
            try:
                entry = read_line(json.loads(line))
            except (ValueError, BadLog):
                continue  # cut in two by a crash of its writer: the report's reader tells of it
            if isinstance(entry, Call) and entry.group == EXPERIMENT:
                found.append(entry)
        return found


class Recent:
    """The latest calls: one thread reads them, any thread asks."""

    def __init__(self, logs: Sequence[Path]) -> None:
        self._tails = [Tail(path) for path in logs]
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self.wrong_answers = 0  # of all calls read

    def read(self, now: float) -> list[Call]:
        """The calls that are new; those older than KEPT are forgotten."""
        calls = [call for tail in self._tails for call in tail.calls()]
        with self._lock:
            self._calls.extend(calls)
            self.wrong_answers += sum(bool(call.wrong) for call in calls)
            while self._calls and self._calls[0].ended < now - KEPT:
                self._calls.popleft()
        return calls

    def last(self, seconds: float, now: float) -> list[Call]:
        """The calls read that ended within the last ``seconds``. Raises DrillError for more than
        KEPT."""
        if seconds > KEPT:
            raise DrillError(f"calls are kept for {KEPT:.0f} s; nobody can look back {seconds:g} s")
        with self._lock:
            return [call for call in self._calls if call.ended >= now - seconds]

"""Results of finished stages, kept under the content key of all that went into them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierline import TierlineError
from tierline_cloud.training.console import Console
from tierline_cloud.training.world import SOLO, World

FORMAT = 1  # raise it when a stage's code changes what it makes

Result = dict[str, Any]  # Any: plain JSON values


class StageLost(TierlineError):
    """A finished stage's record that this process cannot read; the message says what to do."""


def content_key(*parts: object) -> str:
    """sha256 over the JSON of ``parts``."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One finished stage: its folder, its key, and what it reported."""

    folder: Path
    key: str
    result: Result


class StageStore:
    """Runs a stage unless its result is already there under the same key. Of several processes
    (``world``), which share the folder, rank 0 decides that and writes."""

    def __init__(self, folder: Path, console: Console, world: World = SOLO) -> None:
        self._folder = folder
        self._console = console
        self._world = world

    def run(
        self,
        name: str,
        make: Callable[[Path, str], Result],
        *,
        inputs: Mapping[str, object],
        after: tuple[Stage, ...] = (),
        by_all: bool = False,
    ) -> Stage:
        """``make(folder, key)`` leaves its files in the folder and returns plain values. The key
        covers ``inputs`` and the keys of the stages it comes ``after``. ``by_all`` runs it on every
        rank, where only rank 0 may write and only rank 0's values count; else rank 0 runs it."""
        key = content_key(name, dict(inputs), [stage.key for stage in after])
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "stage.json"
        found = _read(record)
        (kept,) = self._world.share([found is not None and found.get("key") == key])
        if kept:
            self._console.say(f"{name}: done before, kept")
        else:
            began = time.monotonic()
            if self._world.is_writer:
                record.unlink(missing_ok=True)
            if self._world.is_writer or by_all:
                result = make(folder, key)
            seconds = time.monotonic() - began
            if self._world.is_writer:
                _write(record, {"key": key, "seconds": round(seconds, 3), "result": result})
            self._console.say(f"{name}: done in {seconds:.1f} s")
            self._world.together()
        return Stage(folder=folder, key=key, result=_finished(record)["result"])


def _write(record: Path, document: Result) -> None:
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(partial, record)


def _finished(record: Path) -> Result:
    document = _read(record)
    if document is None:
        raise StageLost(
            f"{record} was written by rank 0 and is not here: give all processes of one run the "
            f"same --out folder, on a disk they share"
        )
    return document


def _read(path: Path) -> dict[str, Any] | None:
    """A stage's record; None when there is none, or half of one: then the stage runs again."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) and "result" in document else None

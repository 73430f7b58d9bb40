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

from tierline_cloud.training.console import Console

FORMAT = 1  # raise it when a stage's code changes what it makes

Result = dict[str, Any]  # Any: plain JSON values


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
    """Runs a stage unless its result is already there under the same key."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console

    def run(
        self,
        name: str,
        make: Callable[[Path, str], Result],
        *,
        inputs: Mapping[str, object],
        after: tuple[Stage, ...] = (),
    ) -> Stage:
        """``make(folder, key)`` leaves its files in the folder and returns plain values. The key
        covers ``inputs`` and the keys of the stages it comes ``after``."""
        key = content_key(name, dict(inputs), [stage.key for stage in after])
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "stage.json"
        found = _read(record)
        if found is not None and found.get("key") == key:
            self._console.say(f"{name}: done before, kept")
            return Stage(folder=folder, key=key, result=found["result"])
        record.unlink(missing_ok=True)
        began = time.monotonic()
        result = make(folder, key)
        seconds = time.monotonic() - began
        partial = record.with_suffix(".partial")
        document = {"key": key, "seconds": round(seconds, 3), "result": result}
        partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(partial, record)
        self._console.say(f"{name}: done in {seconds:.1f} s")
        return Stage(folder=folder, key=key, result=result)


def _read(path: Path) -> dict[str, Any] | None:
    """A stage's record; None when there is none, or half of one: then the stage runs again."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) and "result" in document else None

"""How much a frame may carry, and the checks of its fields: each passes or is a FrameError."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from tierline._exceptions import FrameError

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most a reader accepts. A request beyond them is refused before anything is allocated."""

    max_frame_bytes: int = 16 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_tensors: int = 64
    max_rank: int = 8
    max_name: int = 128  # characters: models, versions, bundles, tensors, timings, error codes
    max_message: int = 4096  # characters
    max_k: int = 10_000_000
    max_timings: int = 32

    max_array: int = field(init=False)  # the longest msgpack array a valid header can hold
    max_text: int = field(init=False)  # bytes of a text; its characters are counted apart

    def __post_init__(self) -> None:
        longest = max(self.max_tensors, self.max_rank + 2, 2 * self.max_timings, 7)
        object.__setattr__(self, "max_array", longest)
        object.__setattr__(self, "max_text", 4 * max(self.max_message, self.max_name))


DEFAULT_LIMITS: Final = Limits()


def check_text(name: str, value: object, max_length: int) -> None:
    if type(value) is not str or not 0 < len(value) <= max_length:
        raise FrameError(f"{name} must be a text of 1 to {max_length} characters")


def check_count(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 < value <= most:
        raise FrameError(f"{name} must be an integer from 1 to {most}, got {_shown(value)}")


def finite(name: str, value: object) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) <= 2**53:
        return value
    raise FrameError(f"{name} must be a finite number, got {_shown(value)}")


def check_unit(name: str, value: object) -> None:
    if not 0.0 <= finite(name, value) <= 1.0:
        raise FrameError(f"{name} must lie in [0, 1], got {value!r}")


def check_seconds(name: str, value: object) -> float:
    seconds = finite(name, value)
    if seconds < 0.0:
        raise FrameError(f"{name} must be seconds, zero or more, got {value!r}")
    return seconds


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"

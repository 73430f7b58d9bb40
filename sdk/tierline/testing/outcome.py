"""How one planned call ended, as its caller saw it."""

from __future__ import annotations

from typing import NamedTuple

from tierline._exceptions import CallError
from tierline._types import Answer, Attempt
from tierline.testing.load import PlannedCall


class Outcome(NamedTuple):
    """The one end of a call: an answer, an error, or (both None) its caller gave up."""

    call: PlannedCall
    began: float  # virtual seconds
    ended: float
    answer: Answer | None
    error: CallError | None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The finished attempts, oldest first."""
        if self.answer is not None:
            return self.answer.attempts
        return self.error.attempts if self.error is not None else ()

    @property
    def name(self) -> str:
        """The answer's quality, the error's type, or "cancelled"."""
        if self.answer is not None:
            return self.answer.quality
        return type(self.error).__name__ if self.error is not None else "cancelled"


class Violation(NamedTuple):
    """A property that did not hold."""

    at: float
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at:.6f} s: {self.message}"

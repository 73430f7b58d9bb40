"""Every error Tierline raises.

TierlineError
├── ConfigurationError        the configuration is wrong; names the key
├── MissingExtra              an optional part is not installed; says which extra brings it
├── FrameError                bytes that are not a valid wire frame
├── BundleRefused             a bundle that is damaged, unsigned, incompatible or incomplete
├── CallError                 a call ended without an answer: .attempts, .elapsed, .call_id
│   ├── DeadlineExceeded      time ran out
│   ├── Unavailable           nobody could answer
│   ├── Overloaded            refused for load: .retry_after
│   ├── NotPermitted          access or data policy forbids it
│   ├── BadRequest            the request itself is wrong; retrying cannot help
│   ├── ModelNotFound         no such model (or pinned version) there
│   └── ModelFailed           the model failed or answered nonsense
└── TransportError            one attempt did not come through
    ├── ConnectFailed         never connected; nothing was sent
    ├── AttemptTimedOut       no whole answer within the attempt's timeout
    ├── AttemptLapsed         its time was over while this process stood still
    ├── LocalProtocolError    we broke the protocol
    └── RemoteProtocolError   they broke the protocol, or hung up
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierline._types import Attempt


class TierlineError(Exception):
    """The root of every error Tierline raises."""


class ConfigurationError(TierlineError):
    """The configuration is wrong. ``key`` names the offending entry, e.g. ``retry.attempts``."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key


class MissingExtra(TierlineError):
    """An optional part is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs an extra: pip install 'tierline[{extra}]'")
        self.extra = extra


class FrameError(TierlineError):
    """Bytes that are not a valid wire frame, or one beyond the declared limits."""


class BundleRefused(TierlineError):
    """A bundle was refused whole. The message says which part and why."""


class CallError(TierlineError):
    """A call ended without an answer. ``attempts`` are the finished attempts, oldest first."""

    def __init__(
        self,
        message: str,
        *,
        attempts: tuple[Attempt, ...] = (),
        elapsed: float = 0.0,
        call_id: str = "",
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.elapsed = elapsed
        self.call_id = call_id


class DeadlineExceeded(CallError):
    """Time ran out before anyone answered."""


class Unavailable(CallError):
    """Nobody could answer."""


class Overloaded(CallError):
    """Refused for load. ``retry_after`` is in seconds, or None when the server did not say."""

    retry_after: float | None = None


class NotPermitted(CallError):
    """Access control or the data policy forbids this call."""


class BadRequest(CallError):
    """The request itself is wrong; retrying cannot help."""


class ModelNotFound(CallError):
    """No such model, or not in the pinned version, at that endpoint."""


class ModelFailed(CallError):
    """The model failed, or answered something that is no answer."""


class TransportError(TierlineError):
    """One attempt did not come through."""


class ConnectFailed(TransportError):
    """Never connected; nothing was sent."""


class AttemptTimedOut(TransportError):
    """No whole answer within the attempt's timeout."""


class AttemptLapsed(TransportError):
    """This process (or its machine) stood still: the attempt's time was over before it came to send
    it, or long over before it came to look for the answer. It says nothing about the endpoint."""


class LocalProtocolError(TransportError):
    """We broke the protocol."""


class RemoteProtocolError(TransportError):
    """The other side broke the protocol, or hung up."""

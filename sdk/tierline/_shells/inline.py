"""Runs a call in the caller's own thread: one attempt at a time, no hedging."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Lock

from tierline._channels import Channel, Outgoing
from tierline._core.call import ScoreCall
from tierline._core.commands import CancelAttempt, Command, Finish, StartAttempt, WakeAt
from tierline._exceptions import AttemptTimedOut, TierlineError
from tierline._types import Answer


def run(call: ScoreCall, outgoing: Outgoing, channels: Mapping[str, Channel], lock: Lock) -> Answer:
    """Carry the call to its end. ``lock`` guards the fleet; it is never held while waiting.
    Raises the call's CallError; a KeyboardInterrupt cancels the call and passes through."""
    try:
        with lock:
            commands = call.begin(time.monotonic())
        while True:
            step = _act(commands, call, outgoing, channels, lock)
            if isinstance(step, Answer):
                return step
            commands = step
    except BaseException as interruption:
        if not isinstance(interruption, TierlineError):
            with lock:
                call.cancel(time.monotonic())
        raise


def _act(
    commands: list[Command],
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
) -> list[Command] | Answer:
    for command in commands:
        match command:
            case Finish(answer, error):
                if error is not None:
                    raise error
                assert answer is not None
                return answer
            case StartAttempt():
                return _attempt(command, call, outgoing, channels, lock)
            case WakeAt(at):
                time.sleep(max(0.0, at - time.monotonic()))
                with lock:
                    return call.wake(max(at, time.monotonic()))
            case CancelAttempt():
                pass  # nothing else is ever out
    raise AssertionError("the core gave no way on")


def _attempt(
    start: StartAttempt,
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
) -> list[Command]:
    timeout = start.timeout_at - time.monotonic()
    try:
        if timeout <= 0:
            raise AttemptTimedOut("no time was left to start the attempt")
        seen = outgoing if start.view is None else outgoing.seen_as(start.view)
        reply = channels[start.endpoint.url].ask(seen, start.number, timeout)
    except TierlineError as error:
        with lock:
            return call.attempt_failed(start.number, error, time.monotonic())
    with lock:
        return call.attempt_succeeded(start.number, reply, time.monotonic())

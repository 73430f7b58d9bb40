"""Runs a call in the caller's own thread: one attempt at a time, no hedging."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock

from tierline._channels import Channel, Outgoing
from tierline._core.call import ScoreCall
from tierline._core.commands import EARLY, CancelAttempt, Command, Finish, StartAttempt, WakeAt
from tierline._exceptions import AttemptLapsed, TierlineError
from tierline._types import Answer

Clock = Callable[[], float]  # monotonic seconds


def run(
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
    clock: Clock,
) -> Answer:
    """Carry the call to its end. ``lock`` guards the fleet; it is never held while waiting.
    Raises the call's CallError; a KeyboardInterrupt cancels the call and passes through."""
    try:
        with lock:
            commands = call.begin(clock())
        while True:
            step = _act(commands, call, outgoing, channels, lock, clock)
            if isinstance(step, Answer):
                return step
            commands = step
    except BaseException as interruption:
        if not isinstance(interruption, TierlineError):
            with lock:
                call.cancel(clock())
        raise


def _act(
    commands: list[Command],
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
    clock: Clock,
) -> list[Command] | Answer:
    for command in commands:
        match command:
            case Finish(answer, error):
                if error is not None:
                    raise error
                assert answer is not None
                return answer
            case StartAttempt():
                return _attempt(command, call, outgoing, channels, lock, clock)
            case WakeAt(at):
                while (left := at - clock()) > EARLY:  # a clock may be slower than the sleep's
                    time.sleep(left)
                with lock:
                    return call.wake(max(at, clock()))
            case CancelAttempt():
                pass  # nothing else is ever out
    raise AssertionError("the core gave no way on")


def _attempt(
    start: StartAttempt,
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
    clock: Clock,
) -> list[Command]:
    timeout = start.timeout_at - clock()
    try:
        if timeout <= 0:
            raise AttemptLapsed("its time was over before it could be sent")
        seen = outgoing if start.view is None else outgoing.seen_as(start.view)
        reply = channels[start.endpoint.url].ask(seen, start.number, timeout)
    except TierlineError as error:
        with lock:
            return call.attempt_failed(start.number, error, clock())
    with lock:
        return call.attempt_succeeded(start.number, reply, clock())

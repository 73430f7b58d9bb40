"""Runs a call on an event loop: in the caller's own task while one attempt is out, else in tasks.

Cancelling the caller cancels its attempts, is neutral for every endpoint, and leaks nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from tierline._channels import AsyncChannel, Outgoing
from tierline._core.call import ScoreCall
from tierline._core.commands import EARLY, CancelAttempt, Command, Finish, StartAttempt, WakeAt
from tierline._exceptions import AttemptLapsed, TierlineError
from tierline._types import Answer
from tierline.wire import ScoreReply

Attempts = dict[int, asyncio.Task[ScoreReply]]
Clock = Callable[[], float]  # monotonic seconds


async def run(
    call: ScoreCall, outgoing: Outgoing, channels: Mapping[str, AsyncChannel], clock: Clock
) -> Answer:
    """Carry the call to its end. Raises the call's CallError, or CancelledError."""
    attempts: Attempts = {}
    wake_at: float | None = None
    try:
        commands = call.begin(clock())
        while True:
            if len(commands) == 1 and not attempts:
                only = commands[0]
                if type(only) is StartAttempt:
                    commands = await _attempt_alone(only, call, outgoing, channels, clock)
                    continue
            for command in commands:
                match command:
                    case Finish(answer, error):
                        if error is not None:
                            raise error
                        assert answer is not None
                        return answer
                    case StartAttempt(number):
                        attempt = _ask(command, outgoing, channels, clock)
                        attempts[number] = asyncio.create_task(attempt)
                    case WakeAt(at):
                        wake_at = at
                    case CancelAttempt(number):
                        attempts.pop(number).cancel()
            commands, wake_at = await _next_event(call, attempts, wake_at, clock)
    except BaseException as interruption:
        if not isinstance(interruption, TierlineError):
            call.cancel(clock())
        raise
    finally:
        for task in attempts.values():
            task.cancel()


async def _attempt_alone(
    start: StartAttempt,
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, AsyncChannel],
    clock: Clock,
) -> list[Command]:
    try:
        reply = await _ask(start, outgoing, channels, clock)
    except TierlineError as error:
        return call.attempt_failed(start.number, error, clock())
    return call.attempt_succeeded(start.number, reply, clock())


async def _ask(
    start: StartAttempt, outgoing: Outgoing, channels: Mapping[str, AsyncChannel], clock: Clock
) -> ScoreReply:
    timeout = start.timeout_at - clock()
    if timeout <= 0:
        raise AttemptLapsed("its time was over before it could be sent")
    seen = outgoing if start.view is None else outgoing.seen_as(start.view)
    return await channels[start.endpoint.url].ask(seen, start.number, timeout)


async def _next_event(
    call: ScoreCall, attempts: Attempts, wake_at: float | None, clock: Clock
) -> tuple[list[Command], float | None]:
    """Wait for any attempt to report, or for the instant to wake, whichever is first."""
    pause = None if wake_at is None else max(0.0, wake_at - clock())
    if attempts:
        done, _ = await asyncio.wait(
            attempts.values(), timeout=pause, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            number = next(n for n, task in attempts.items() if task in done)
            return _report(call, number, attempts.pop(number), clock()), wake_at
    else:
        assert pause is not None, "the core waits for nothing"
        await asyncio.sleep(pause)
    now = clock()
    if wake_at is not None and wake_at - now > EARLY:
        return [], wake_at  # this clock is slower than the loop's: wait for what is left
    return call.wake(max(wake_at or 0.0, now)), None


def _report(
    call: ScoreCall, number: int, task: asyncio.Task[ScoreReply], now: float
) -> list[Command]:
    failure = task.exception()
    if failure is None:
        return call.attempt_succeeded(number, task.result(), now)
    if isinstance(failure, TierlineError):
        return call.attempt_failed(number, failure, now)
    raise failure

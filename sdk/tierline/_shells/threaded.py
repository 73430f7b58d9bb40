"""Runs a call whose attempts may overlap: each in a worker thread, the caller waits for any.

A loser cannot be cancelled, only abandoned: its own timeout bounds it, its report is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Lock
from typing import NamedTuple

from tierline._channels import Channel, Outgoing
from tierline._core.call import ScoreCall
from tierline._core.commands import EARLY, CancelAttempt, Command, Finish, StartAttempt, WakeAt
from tierline._exceptions import AttemptLapsed, TierlineError
from tierline._types import Answer
from tierline.wire import ScoreReply

Clock = Callable[[], float]  # monotonic seconds


class Report(NamedTuple):
    """What became of an attempt. ``failure`` may be any exception: the caller's thread judges."""

    number: int
    reply: ScoreReply | None
    failure: BaseException | None


def run(
    call: ScoreCall,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    lock: Lock,
    workers: ThreadPoolExecutor,
    clock: Clock,
) -> Answer:
    """Carry the call to its end; the contract is that of the inline shell."""
    reports: SimpleQueue[Report] = SimpleQueue()
    wake_at: float | None = None
    try:
        with lock:
            commands = call.begin(clock())
        while True:
            for command in commands:
                match command:
                    case Finish(answer, error):
                        if error is not None:
                            raise error
                        assert answer is not None
                        return answer
                    case StartAttempt():
                        workers.submit(_attempt, command, outgoing, channels, reports, clock)
                    case WakeAt(at):
                        wake_at = at
                    case CancelAttempt():
                        pass  # abandoned: the core forgets it, its report changes nothing
            commands, wake_at = _next_event(call, reports, wake_at, lock, clock)
    except BaseException as interruption:
        if not isinstance(interruption, TierlineError):
            with lock:
                call.cancel(clock())
        raise


def _next_event(
    call: ScoreCall,
    reports: SimpleQueue[Report],
    wake_at: float | None,
    lock: Lock,
    clock: Clock,
) -> tuple[list[Command], float | None]:
    try:
        timeout = None if wake_at is None else max(0.0, wake_at - clock())
        report = reports.get(timeout=timeout)
    except Empty:
        now = clock()
        if wake_at is not None and wake_at - now > EARLY:
            return [], wake_at  # this clock is slower than the timer's: wait for what is left
        with lock:
            return call.wake(max(wake_at or 0.0, now)), None
    if report.failure is not None and not isinstance(report.failure, TierlineError):
        raise report.failure
    with lock:
        now = clock()
        if report.failure is not None:
            return call.attempt_failed(report.number, report.failure, now), wake_at
        assert report.reply is not None
        return call.attempt_succeeded(report.number, report.reply, now), wake_at


def _attempt(
    start: StartAttempt,
    outgoing: Outgoing,
    channels: Mapping[str, Channel],
    reports: SimpleQueue[Report],
    clock: Clock,
) -> None:
    try:
        timeout = start.timeout_at - clock()
        if timeout <= 0:
            raise AttemptLapsed("its time was over before it could be sent")
        seen = outgoing if start.view is None else outgoing.seen_as(start.view)
        reply = channels[start.endpoint.url].ask(seen, start.number, timeout)
    except BaseException as failure:  # delivered to the caller's thread, whatever it is
        reports.put(Report(start.number, None, failure))
    else:
        reports.put(Report(start.number, reply, None))

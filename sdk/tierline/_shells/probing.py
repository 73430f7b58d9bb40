"""Sends the probes of health: for each endpoint a task on the event loop, or a daemon thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

from tierline._channels import AsyncChannel, Channel, Outgoing
from tierline._core.dice import Dice
from tierline._core.probing import Probe, Prober
from tierline._exceptions import ModelFailed, TierlineError

Clock = Callable[[], float]  # monotonic seconds


def outgoing(probe: Probe) -> Outgoing:
    """The probe as a call; it says of itself that it is one."""
    return Outgoing(probe.request, f"probe-{probe.target}-{probe.number}", None)


class AsyncProbes:
    """Probes on whichever event loop the client is used: one set of tasks a loop."""

    def __init__(
        self, prober: Prober, channels: Mapping[str, AsyncChannel], clock: Clock, dice: Dice
    ) -> None:
        self._prober = prober
        self._channels = channels
        self._clock = clock
        self._dice = dice
        self._tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, list[asyncio.Task[None]]] = (
            WeakKeyDictionary()
        )

    def ensure(self) -> None:
        """Start them on the running loop, unless they run there."""
        loop = asyncio.get_running_loop()
        if loop in self._tasks:
            return
        self._prober.begin(self._clock(), self._dice)
        targets = range(len(self._prober.targets))
        self._tasks[loop] = [loop.create_task(self._watch(target)) for target in targets]

    async def stop(self) -> None:
        """Cancel those of the running loop, and wait until they are gone."""
        tasks = self._tasks.pop(asyncio.get_running_loop(), [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, target: int) -> None:
        prober, clock = self._prober, self._clock
        while True:
            await asyncio.sleep(max(0.0, prober.due(target) - clock()))
            if clock() < prober.due(target):
                continue
            probe = prober.probe(target, clock(), self._dice)
            if probe is not None:
                await self._ask(probe)

    async def _ask(self, probe: Probe) -> None:
        try:
            reply = await self._channels[probe.url].ask(outgoing(probe), 1, probe.timeout)
        except TierlineError as error:
            self._prober.failed(probe, error, self._clock())
        except Exception as bug:  # of a channel: it must not end the probes, and is no answer
            self._prober.failed(probe, ModelFailed(f"the probe broke: {bug!r}"), self._clock())
        else:
            self._prober.answered(probe, reply, self._clock(), self._dice)


class ThreadProbes:
    """Probes in daemon threads, one an endpoint; a forked child starts its own."""

    def __init__(
        self,
        prober: Prober,
        channels: Mapping[str, Channel],
        clock: Clock,
        dice: Dice,
        lock: threading.Lock,
    ) -> None:
        self._prober = prober
        self._channels = channels
        self._clock = clock
        self._dice = dice
        self._lock = lock
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pid = 0

    def ensure(self) -> None:
        """Start them in this process, unless they run here."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._prober.begin(self._clock(), self._dice)
            self._threads = [
                threading.Thread(target=self._watch, args=(i,), name="tierline-probe", daemon=True)
                for i in range(len(self._prober.targets))
            ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End them; a probe that is out has its own timeout."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, target: int) -> None:
        while not self._stopped.wait(max(0.0, self._prober.due(target) - self._clock())):
            with self._lock:
                now = self._clock()
                probe = None
                if now >= self._prober.due(target):
                    probe = self._prober.probe(target, now, self._dice)
            if probe is not None:
                self._ask(probe)

    def _ask(self, probe: Probe) -> None:
        try:
            reply = self._channels[probe.url].ask(outgoing(probe), 1, probe.timeout)
        except TierlineError as error:
            with self._lock:
                self._prober.failed(probe, error, self._clock())
        except Exception as bug:  # of a channel: it must not end the probes, and is no answer
            with self._lock:
                failure = ModelFailed(f"the probe broke: {bug!r}")
                self._prober.failed(probe, failure, self._clock())
        else:
            with self._lock:
                self._prober.answered(probe, reply, self._clock(), self._dice)

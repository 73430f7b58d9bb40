"""Does what was posted once callers had been answered: in tasks of the event loop, or in a daemon
thread that lives while there is something to do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue

from tierline._channels import AsyncChannel, Channel, ModelDescription, Outgoing
from tierline._core.certified import Errand, Learn, Shadow
from tierline._core.fleet import Fleet
from tierline._core.shadow_call import ShadowCall
from tierline._shells import asyncio as shell
from tierline._shells import inline

DESCRIBING = 1.0  # seconds an endpoint has to say what it serves
LINGER = 1.0  # seconds a thread waits for more before it ends

Clock = Callable[[], float]  # monotonic seconds
Making = Callable[[Shadow], tuple[ShadowCall, Outgoing]]


def learnt(fleet: Fleet, errand: Learn, description: ModelDescription) -> None:
    """An endpoint has said what it serves: of another bundle than asked about, nothing is learnt
    of that one, and its next answer asks again."""
    said = description.get("bundle")
    if not errand.bundle:
        fleet.control(errand.model).cloud_answered(errand.url, str(said))
    elif said == errand.bundle:
        fleet.control(errand.model).edge_described(errand.bundle, description)


class ThreadErrands:
    """One daemon thread, started when needed; a forked child starts its own."""

    def __init__(
        self,
        fleet: Fleet,
        channels: Mapping[str, Channel],
        clock: Clock,
        lock: threading.Lock,
        making: Making,
    ) -> None:
        self._fleet = fleet
        self._channels = channels
        self._clock = clock
        self._lock = lock
        self._making = making
        self._queue: SimpleQueue[Errand | None] = SimpleQueue()
        self._gate = threading.Lock()  # who starts the thread
        self._thread: threading.Thread | None = None
        self._stopped = False

    def post(self) -> None:
        """Take over what the fleet has posted."""
        errands = self._fleet.errands
        while errands:
            try:
                self._queue.put(errands.popleft())
            except IndexError:  # another thread was quicker
                break
        with self._gate:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._work, name="tierline-errands", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """End it; what is out has its own timeout, what waits is dropped."""
        with self._gate:
            self._stopped = True
            thread = self._thread
        self._queue.put(None)
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while not self._stopped:
            try:
                errand = self._queue.get(timeout=LINGER)
            except Empty:
                with self._gate:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            if errand is not None and not self._stopped:
                self._do(errand)

    def _do(self, errand: Errand) -> None:
        if isinstance(errand, Shadow):
            self._show(errand)
            return
        try:
            description = self._channels[errand.url].describe(errand.model, DESCRIBING)
        except Exception:  # whatever a channel raises: a later answer of the bundle asks again
            return
        with self._lock:
            learnt(self._fleet, errand, description)

    def _show(self, shadow: Shadow) -> None:
        with self._lock:
            call, outgoing = self._making(shadow)
        try:
            answer = inline.run(call, outgoing, self._channels, self._lock, self._clock)
        except Exception:  # whatever a channel raises: a shadow that came to nothing tells nothing
            return
        with self._lock:
            shadow.control.saw(shadow, answer)


class AsyncErrands:
    """Tasks on whichever event loop the client is used."""

    def __init__(
        self, fleet: Fleet, channels: Mapping[str, AsyncChannel], clock: Clock, making: Making
    ) -> None:
        self._fleet = fleet
        self._channels = channels
        self._clock = clock
        self._making = making
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self) -> None:
        """Take over what the fleet has posted."""
        loop = asyncio.get_running_loop()
        while self._fleet.errands:
            task = loop.create_task(self._do(self._fleet.errands.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel those of the running loop, and wait until they are gone."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, errand: Errand) -> None:
        if isinstance(errand, Shadow):
            await self._show(errand)
            return
        try:
            description = await self._channels[errand.url].describe(errand.model, DESCRIBING)
        except Exception:  # whatever a channel raises: a later answer of the bundle asks again
            return
        learnt(self._fleet, errand, description)

    async def _show(self, shadow: Shadow) -> None:
        call, outgoing = self._making(shadow)
        try:
            answer = await shell.run(call, outgoing, self._channels, self._clock)
        except Exception:  # whatever a channel raises: a shadow that came to nothing tells nothing
            return
        shadow.control.saw(shadow, answer)

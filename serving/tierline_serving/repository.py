"""Loads, swaps, rolls back and unloads the models of a process; a failed load changes nothing.

A model comes from the source it was started with and no other. A new bundle is verified, loaded
and warmed up beside the old one; then the pointer moves, and the old one is kept for a roll-back,
or closed when the last call that holds it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tierline import BadRequest, ModelFailed, ModelNotFound, TierlineError
from tierline_serving import memory
from tierline_serving.batching import BatchLimits, Runner
from tierline_serving.model_states import ModelState, rows_of
from tierline_serving.scorer import Scorer
from tierline_serving.served import Generation, Line, Served
from tierline_serving.settings import DEFAULT_ROLLBACK_HOLD
from tierline_serving.shelf import Loaded, Shelf
from tierline_serving.versions import Wanted
from tierline_serving.warming import warm

DRAIN_TIMEOUT = 30.0  # seconds an old bundle gets to answer what it had accepted
RETRY_AFTER = 30.0  # seconds until a load that failed is tried again, the source unchanged
_THREAD_GRACE = 5.0  # seconds for a scoring thread with nothing left to do to end

MakeRunner = Callable[[Scorer], Runner]
_T = TypeVar("_T")

_log = logging.getLogger("tierline.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A model whose registry had something new: the bundle that answers now, or why not."""

    model: str
    bundle: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryOptions:
    """``batch`` bounds the batches to warm up; ``hold`` how long (seconds) the bundle before
    is kept, 0 keeps none; ``unload_first`` says that a bundle too large to stand beside the old
    one takes its place, with a gap in between; ``free`` tells the bytes of memory left."""

    batch: BatchLimits = field(default_factory=BatchLimits)
    hold: float = DEFAULT_ROLLBACK_HOLD
    unload_first: bool = False
    free: Callable[[], int | None] = memory.available


class Repository:
    """The models of one process by name. Use it on the loop that serves them.

    ``served`` is what the handlers answer from: moving a line there is the swap.
    """

    def __init__(
        self,
        served: Served,
        make_runner: MakeRunner,
        *,
        shelves: Mapping[str, Shelf] | None = None,
        options: RepositoryOptions | None = None,
    ) -> None:
        self._served = served
        self._make_runner = make_runner
        self._shelves = dict(shelves or {})
        self._options = options or RepositoryOptions()
        self._names = sorted({*(each.info.name for each in served), *self._shelves})
        self._reasons: dict[str, str] = {}
        self._loading: set[str] = set()
        self._turn = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self._holds: dict[str, asyncio.TimerHandle] = {}  # until the bundle before is let go
        self._seen: dict[str, object] = {}
        self._retry_at: dict[str, float] = {}
        # One thread, so that loads take turns and their memory comes from one arena.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loading")

    def index(self) -> list[ModelState]:
        """Every model this process was started with, loaded or not; one row a bundle."""
        return [row for name in self._names for row in self._rows(name)]

    def _rows(self, name: str) -> list[ModelState]:
        is_loading, why = name in self._loading, self._reasons.get(name, "")
        return rows_of(name, self._served.line(name), is_loading=is_loading, reason=why)

    async def load(self, name: str) -> str:
        """Load what the model's source wants now and serve that; the id of what answers.

        Raises ModelNotFound, BadRequest when this process knows no source for it, ModelFailed with
        the reason when a bundle is refused or does not warm up; then what served, serves on.
        """
        async with self._loaded(name) as swap:
            return swap()

    async def change(self, asked: Mapping[str, str]) -> str:
        """Make one change: ``do`` is load, unload, roll-back or label, ``model`` names the model;
        a label needs ``label`` and ``version``. Returns a bundle's id, empty when none is left."""
        async with self.prepared(asked) as commit:
            return commit()

    @asynccontextmanager
    async def prepared(self, asked: Mapping[str, str]) -> AsyncIterator[Callable[[], str]]:
        """As ``change``, in two steps: entered, nothing can go wrong any more; what it gives makes
        the change. Left without that, nothing has changed."""
        name = asked["model"]
        self._check_name(name)
        match asked["do"]:
            case "load":
                async with self._loaded(name) as swap:
                    yield swap
            case "unload":
                async with self._turn:
                    yield lambda: self._unload(name) or ""
            case "roll-back":
                self._line(name).rolled_back()
                yield lambda: self.roll_back(name)
            case "label":
                label, version = asked["label"], asked["version"]
                self._line(name).labelled(label, version)
                yield lambda: self.move_label(name, label, version)
            case other:
                raise BadRequest(f"there is no change called {other!r}")

    async def unload(self, name: str) -> str | None:
        """Stop serving a model: new requests get 404, accepted ones are answered.

        Returns the id of the bundle that answered, or None when none did. Raises ModelNotFound for
        a name this process was not started with.
        """
        self._check_name(name)
        async with self._turn:
            return self._unload(name)

    def roll_back(self, name: str) -> str:
        """Let the bundle before answer again, at once; its id. Raises ModelNotFound, BadRequest
        when none is kept. It waits for no load: one that is under way wins when it ends."""
        self._check_name(name)
        line = self._line(name).rolled_back()
        self._move(name, line)
        return line.now.bundle

    def move_label(self, name: str, label: str, version: str) -> str:
        """Let a label name a loaded bundle; its id. Raises ModelNotFound, BadRequest when that is
        not loaded."""
        self._check_name(name)
        line = self._line(name).labelled(label, version)
        self._move(name, line)
        return line.labels[label]

    async def look(self, now: float) -> list[Seen]:
        """Load every model whose registry says something new, or that failed a while ago; each
        model tried with the bundle that answers now, or with the reason it was not loaded. The
        first look loads what the start has left out."""
        told: list[Seen] = []
        for name, shelf in self._shelves.items():
            stamp = await self._aside(shelf.stamp)
            if stamp is None:
                continue  # what is there is there for good
            is_due = now >= self._retry_at.get(name, float("inf"))
            if name in self._seen and self._seen[name] == stamp and not is_due:
                continue
            self._seen[name] = stamp
            self._retry_at.pop(name, None)
            try:
                told.append(Seen(model=name, bundle=await self.load(name)))
            except ModelFailed as error:
                self._retry_at[name] = now + RETRY_AFTER
                told.append(Seen(model=name, failure=str(error)))
        return told

    async def watch(self, interval: float, told: Callable[[Seen], Awaitable[None]]) -> None:
        """Look every ``interval`` seconds until cancelled; ``told`` hears of each model tried."""
        while True:
            await asyncio.sleep(interval)
            for seen in await self.look(time.monotonic()):
                await told(seen)

    async def settled(self) -> None:
        """Wait until every bundle taken out of service is closed."""
        while self._draining:
            await asyncio.gather(*self._draining)

    # Loading

    @asynccontextmanager
    async def _loaded(self, name: str) -> AsyncIterator[Callable[[], str]]:
        shelf = self._shelf(name)
        async with self._turn:
            self._loading.add(name)
            fresh: list[Generation] = []
            try:
                line = await self._prepared(name, shelf, fresh)
            except Exception as error:  # the reason stays in the index; what served, serves on
                why = str(error) if isinstance(error, TierlineError) else type(error).__name__
                self._reasons[name] = f"loading failed: {why}"
                unexpected = None if isinstance(error, TierlineError) else error
                _log.error("load failed: %s", why, exc_info=unexpected, extra={"model": name})
                raise ModelFailed(f"model {name!r} was not loaded: {why}") from error
            finally:
                self._loading.discard(name)

            def swap() -> str:
                self._reasons.pop(name, None)
                fresh.clear()
                self._move(name, line)
                return line.now.bundle

            try:
                yield swap
            finally:
                for generation in fresh:
                    self._drain(generation)

    async def _prepared(self, name: str, shelf: Shelf, fresh: list[Generation]) -> Line:
        """The line to come: everything wanted is loaded and warm, nothing serves yet. ``fresh``
        gets what was loaded for it; after an error that is closed already."""
        wanted = await self._aside(shelf.wanted)
        try:
            if wanted.default is None:
                fresh.append(await self._opened(name, shelf, None))
            # Asked again after each load: what was there may have been let go in the meantime.
            while missing := self._missing(name, wanted, fresh):
                fresh.append(await self._opened(name, shelf, missing[0]))
        except BaseException:
            while fresh:
                self._drain(fresh.pop())
            raise
        return _after(self._served.line(name), fresh, wanted, keep_before=self._options.hold > 0)

    def _missing(self, name: str, wanted: Wanted, fresh: list[Generation]) -> list[str]:
        there = {generation.bundle for generation in fresh}
        return [
            bundle
            for bundle in (wanted.default, *wanted.others)
            if bundle is not None and bundle not in there and not self._has(name, bundle)
        ]

    async def _opened(self, name: str, shelf: Shelf, bundle: str | None) -> Generation:
        staged = await self._aside(lambda: shelf.stage(bundle))
        await self._make_room(name, staged.need)
        memory.check_room(staged.name, staged.need, self._options.free())
        loaded = await self._aside(lambda: self._warmed(name, staged.load))
        runner = self._make_runner(loaded.scorer)
        runner.start()
        return Generation(runner, loaded.prior)

    def _warmed(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        loaded = load()
        try:
            found = loaded.scorer.info.name
            if found != name:
                raise BadRequest(f"the source of {name!r} now holds a bundle of {found!r}")
            if loaded.warm_up is not None:
                warm(loaded.scorer, loaded.warm_up, self._options.batch)
        except BaseException:
            loaded.scorer.close()
            raise
        return loaded

    async def _make_room(self, name: str, need: int) -> None:
        """Give up what is kept for roll-backs when a load would not fit beside it; where that is
        not enough and the options say so, the model's own old bundles too."""
        if not self._is_tight(need):
            return
        for each in self._names:
            line = self._served.line(each)
            if line is not None and line.before is not None:
                self._move(each, line.without_before())
        await self.settled()
        if self._options.unload_first and self._is_tight(need):
            self._move(name, None)
            await self.settled()

    def _is_tight(self, need: int) -> bool:
        free = self._options.free()
        return free is not None and need > free

    def _has(self, name: str, bundle: str) -> bool:
        line = self._served.line(name)
        found = None if line is None else line.loaded.get(bundle)
        return found is not None and found.runner.is_alive

    # Serving

    def _move(self, name: str, line: Line | None) -> None:
        before = self._served.line(name)
        kept = _kept(before)
        now, last = (None if each is None else each.now.bundle for each in (line, before))
        if now != last:
            _log.info("bundle swapped", extra={"model": name, "bundle": now, "before": last})
        for generation in self._served.move(name, line):
            self._drain(generation)
        if _kept(line) is kept:
            return
        if (timer := self._holds.pop(name, None)) is not None:
            timer.cancel()
        if _kept(line) is not None:
            loop = asyncio.get_running_loop()
            self._holds[name] = loop.call_later(self._options.hold, self._let_go, name)

    def _unload(self, name: str) -> str | None:
        line = self._served.line(name)
        self._reasons[name] = "unloaded"
        self._move(name, None)
        return None if line is None else line.now.bundle

    def _let_go(self, name: str) -> None:
        line = self._served.line(name)
        if line is not None:
            self._move(name, line.without_before())

    def _drain(self, generation: Generation) -> None:
        task = asyncio.get_running_loop().create_task(self._close_when_released(generation))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _close_when_released(self, generation: Generation) -> None:
        runner = generation.runner
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await generation.released()
        except TimeoutError:
            runner.abandon("its bundle was taken out of service; ask again")
        # Joining the scoring thread may wait for a batch that nobody wants any more.
        if not await asyncio.to_thread(runner.close, _THREAD_GRACE):
            _log.error("scoring thread did not stop", extra={"model": generation.info.name})

    async def _aside(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # What there is

    def _line(self, name: str) -> Line:
        line = self._served.line(name)
        if line is None:
            raise BadRequest(f"nothing of the model {name!r} is loaded")
        return line

    def _shelf(self, name: str) -> Shelf:
        self._check_name(name)
        shelf = self._shelves.get(name)
        if shelf is None:
            raise BadRequest(f"this process was started without a source to load {name!r} from")
        return shelf

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise ModelNotFound(
                f"this process was started without a model {name!r}; it has {known}"
            )


def _kept(line: Line | None) -> Generation | None:
    """The generation that stays in memory for a roll-back."""
    return None if line is None or line.before is None else line.loaded[line.before]


def _after(old: Line | None, fresh: list[Generation], wanted: Wanted, *, keep_before: bool) -> Line:
    """The line when all that is wanted is there: ``fresh`` is new, the rest is in the old line."""
    there: dict[str, Generation] = {} if old is None else dict(old.loaded)
    there |= {generation.bundle: generation for generation in fresh}
    now = fresh[0] if wanted.default is None else there[wanted.default]
    labels = dict(wanted.labels)
    if wanted.default is None and old is not None:
        labels = dict(old.labels)  # a source without channels knows of none: they stay
    before = None
    if old is not None and keep_before:
        before = old.before if old.now.bundle == now.bundle else old.now.bundle
    kept = [*wanted.others, *labels.values(), *([before] if before else [])]
    loaded = {bundle: there[bundle] for bundle in dict.fromkeys(kept)}
    return Line(now=now, loaded={**loaded, now.bundle: now}, labels=labels, before=before)

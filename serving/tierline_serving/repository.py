"""Loads and unloads the models this process was started with; a failed load changes nothing.

A model comes from the source it was started with and no other: a new bundle arrives there by
``tierline registry promote``, and is loaded beside the old one, warmed up, swapped in, and only
then is the old one drained and closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from tierline import BadRequest, ModelFailed, ModelNotFound, TierlineError
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.batching import Runner
from tierline_serving.scorer import Scorer

WARM_UP_TIMEOUT = 120.0  # seconds: a first run may compile kernels
DRAIN_TIMEOUT = 30.0  # seconds an old bundle gets to answer what it had accepted
_DRAIN_LOOK = 0.02  # seconds between looks at a draining bundle: nobody waits for it
_THREAD_GRACE = 1.0  # seconds for a scoring thread with nothing left to do to end

_log = logging.getLogger("tierline.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle fresh from its source: its scorer, a request to warm it up, its prior."""

    scorer: Scorer
    warm_up: ScoreRequest | None = None
    prior: ScoreReply | None = None


Source = Callable[[], Loaded]  # opens, verifies and loads a model; slow, called on a thread
MakeRunner = Callable[[Scorer], Runner]


class State(Enum):
    """Where a model of this process stands."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One row of the index; ``bundle`` None when nothing of the model is loaded."""

    name: str
    bundle: str | None
    state: State
    reason: str = ""


class Repository:
    """The models of one process by name. Use it on the loop that serves them.

    ``runners`` is what the handlers answer from: changing it is the swap. ``priors`` receives the
    popularity prior of every bundle loaded here.
    """

    def __init__(
        self,
        runners: dict[str, Runner],
        make_runner: MakeRunner,
        *,
        sources: Mapping[str, Source] | None = None,
        priors: dict[str, ScoreReply | None] | None = None,
    ) -> None:
        self._runners = runners
        self._make_runner = make_runner
        self._sources = dict(sources or {})
        self._priors = {} if priors is None else priors
        self._names = sorted({*runners, *self._sources})
        self._reasons: dict[str, str] = {}
        self._loading: set[str] = set()
        self._turn = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()

    def index(self) -> list[ModelState]:
        """Every model this process was started with, loaded or not."""
        return [self._state(name) for name in self._names]

    async def load(self, name: str) -> str:
        """Load the model anew from its source and serve that; returns the bundle's id.

        Raises ModelNotFound, BadRequest when this process knows no source for it, ModelFailed with
        the reason when the bundle is refused or does not warm up; then what served, serves on.
        """
        self._check_name(name)
        source = self._sources.get(name)
        if source is None:
            raise BadRequest(f"this process was started without a source to load {name!r} from")
        async with self._turn:
            self._loading.add(name)
            try:
                loaded = await asyncio.to_thread(source)
                runner = await self._warmed(name, loaded)
            except Exception as error:  # the reason stays in the index; what served, serves on
                why = str(error) if isinstance(error, TierlineError) else type(error).__name__
                self._reasons[name] = f"loading failed: {why}"
                _log.error("load failed", exc_info=error, extra={"model": name})
                raise ModelFailed(f"model {name!r} was not loaded: {why}") from error
            finally:
                self._loading.discard(name)
            self._reasons.pop(name, None)
            self._priors[name] = loaded.prior
            old = self._runners.get(name)
            self._runners[name] = runner  # the swap: requests from here on get the new bundle
            if old is not None:
                self._drain(old)
            return runner.scorer.info.bundle

    async def unload(self, name: str) -> str | None:
        """Stop serving a model: new requests get 404, accepted ones are answered.

        Returns the id of the bundle that served, or None when none did. Raises ModelNotFound for a
        name this process was not started with.
        """
        self._check_name(name)
        async with self._turn:
            runner = self._runners.pop(name, None)
            self._reasons[name] = "unloaded"
            if runner is None:
                return None
            self._drain(runner)
            return runner.scorer.info.bundle

    async def settled(self) -> None:
        """Wait until every bundle taken out of service is closed."""
        await asyncio.gather(*self._draining)

    async def _warmed(self, name: str, loaded: Loaded) -> Runner:
        found = loaded.scorer.info.name
        if found != name:
            loaded.scorer.close()
            raise BadRequest(f"the source of {name!r} now holds a bundle of {found!r}")
        runner = self._make_runner(loaded.scorer)
        runner.start()
        if loaded.warm_up is not None:
            try:
                runner.scorer.validate(loaded.warm_up)
                await runner.submit(loaded.warm_up, time.monotonic() + WARM_UP_TIMEOUT)
            except BaseException:
                runner.close(_THREAD_GRACE)
                raise
            runner.forget_costs()
        return runner

    def _drain(self, runner: Runner) -> None:
        task = asyncio.get_running_loop().create_task(_close_when_idle(runner))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _state(self, name: str) -> ModelState:
        runner = self._runners.get(name)
        bundle = None if runner is None else runner.scorer.info.bundle
        reason = self._reasons.get(name, "")
        if runner is not None and runner.is_alive:
            return ModelState(name=name, bundle=bundle, state=State.READY, reason=reason)
        if name in self._loading:
            return ModelState(name=name, bundle=bundle, state=State.LOADING)
        why = reason or ("not loaded" if runner is None else "its scoring thread has ended")
        return ModelState(name=name, bundle=bundle, state=State.UNAVAILABLE, reason=why)

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise ModelNotFound(
                f"this process was started without a model {name!r}; it has {known}"
            )


async def _close_when_idle(runner: Runner) -> None:
    waited = 0.0
    while runner.unanswered and waited < DRAIN_TIMEOUT:
        await asyncio.sleep(_DRAIN_LOOK)
        waited += _DRAIN_LOOK
    if not runner.close(_THREAD_GRACE):
        _log.error("scoring thread did not stop", extra={"model": runner.scorer.info.name})

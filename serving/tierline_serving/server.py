"""Runs an endpoint in this process: listen, warm up, serve, drain, leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import uvicorn

from tierline import ConfigurationError, TierlineError
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.access.audit import AuditBroken, AuditLog
from tierline_serving.access.gate import Gate
from tierline_serving.access.keyring import Keyring
from tierline_serving.app import App
from tierline_serving.batching import Runner
from tierline_serving.batching.runner import BatchReport
from tierline_serving.front.calls import Calls
from tierline_serving.front.connections import guarded_protocol
from tierline_serving.front.listeners import accept_all, address, listen
from tierline_serving.front.turns import Turns
from tierline_serving.handlers import Handlers
from tierline_serving.lifecycle import Event, Lifecycle
from tierline_serving.metrics import Metrics
from tierline_serving.oip.routes import OpenInference
from tierline_serving.outbox import Outbox
from tierline_serving.repository import Repository, RepositoryOptions, Seen
from tierline_serving.scorer import Scorer
from tierline_serving.served import Served
from tierline_serving.settings import KEEP_ALIVE, ServerSettings
from tierline_serving.shelf import Shelf
from tierline_serving.statistics import Statistics
from tierline_serving.warming import warm
from tierline_serving.workers.family import Family
from tierline_serving.workers.metrics import FamilyApp
from tierline_serving.workers.worker import Membership

PriorLookup = Callable[[str], ScoreReply | None]

EXIT_DONE, EXIT_FAILED = 0, 1

LINGER = 0.1  # seconds after the listener closed for requests already on their way in
_THREAD_GRACE = 1.0  # seconds for a scoring thread with nothing left to do to end

_log = logging.getLogger("tierline.serving")


def serve(
    scorers: Sequence[Scorer],
    settings: ServerSettings | None = None,
    *,
    warm_up: Mapping[str, ScoreRequest] | None = None,
    prior: PriorLookup | None = None,
    shelves: Mapping[str, Shelf] | None = None,
    membership: Membership | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Serve the scorers until SIGTERM or SIGINT; returns an exit code.

    ``warm_up`` maps a model to a request scored before the endpoint says it is ready; when one
    fails, nothing is served. The first signal drains: not ready, ``Connection: close`` on every
    answer, still accepting for ``lame_duck`` seconds, then at most ``drain`` more to finish. A
    second one leaves at once. ``shelves`` says where a model is loaded from when an admin asks for
    it, or when the settings say to watch. SIGHUP reads the key file again at once. Returns 0 when
    everything accepted was answered, else 1. Owns the scorers: they are closed on the way out.
    With a ``membership`` this is one worker of several on inherited listeners. Raises
    ConfigurationError when it cannot listen.
    """
    settings = settings or ServerSettings()
    family = None if membership is None else membership.family()
    server = Server(
        scorers,
        settings,
        warm_up=warm_up,
        prior=prior,
        shelves=shelves,
        family=family,
        say=say or say_line,
    )
    sockets = listen(settings) if membership is None else membership.sockets()
    try:
        with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
            return runner.run(server.run(sockets))
    finally:
        for listener in sockets:
            listener.close()
        if settings.unix_socket is not None and membership is None:
            settings.unix_socket.unlink(missing_ok=True)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: they close the listener at once, and we do not."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def stop_listening(self, listeners: Sequence[socket.socket]) -> None:
        """Close the listeners, but serve every connection the kernel has completed until then.

        Merely closing them resets what waits in the kernel's queue: one in five drains under load
        lost a connection that way.
        """
        loop = asyncio.get_running_loop()
        kept = [listener.dup() for listener in listeners]
        for server in self.servers if self.started else ():
            server.close()
        await asyncio.sleep(0)  # uvloop closes its own descriptors one turn later
        await asyncio.sleep(0)
        accepted = [connection for listener in kept for connection in accept_all(listener)]
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        # The same call as in uvicorn's startup(); its protocol classes share no typed base.
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class Server:
    """One endpoint's parts, wired; ``run`` is its whole life."""

    def __init__(
        self,
        scorers: Sequence[Scorer],
        settings: ServerSettings,
        *,
        warm_up: Mapping[str, ScoreRequest] | None = None,
        prior: PriorLookup | None = None,
        shelves: Mapping[str, Shelf] | None = None,
        family: Family | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._warm_up = dict(warm_up or {})
        self._say = say
        self._lifecycle = Lifecycle()
        metrics, statistics, turns, outbox = Metrics(), Statistics(), Turns(), Outbox()

        def count(report: BatchReport) -> None:
            metrics.batch_finished(report)
            statistics.batch_finished(report, time.time())

        def make_runner(scorer: Scorer) -> Runner:
            return Runner(
                scorer, settings.batch, on_batch=count, on_turn=turns.worked, outbox=outbox
            )

        runners = _runners(scorers, make_runner, self._warm_up)
        priors = {name: prior(name) for name in runners} if prior is not None else {}
        self._served = Served.of(runners, priors)
        self._repository = Repository(
            self._served, make_runner, shelves=shelves, options=_repository_options(settings)
        )
        self._handlers = Handlers(
            self._served, settings, self._lifecycle, metrics, turns=turns, outbox=outbox
        )
        self._family = family
        self._audit = None if settings.audit is None else AuditLog(settings.audit)
        self._gate = None if settings.keys is None else Gate(Keyring(settings.keys))
        self._http = _Uvicorn(_uvicorn_config(self._app(statistics), settings))
        self._signals = 0
        self._asked_to_stop = asyncio.Event()
        self._told_twice = asyncio.Event()

    def _app(self, statistics: Statistics) -> App | FamilyApp:
        inference = OpenInference(
            Calls(self._handlers, self._settings),
            repository=self._repository,
            change=self._change,
            statistics=statistics,
            audit=self._audit,
        )
        app = App(self._handlers, self._settings, gate=self._gate, inference=inference)
        return app if self._family is None else FamilyApp(app, self._family)

    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """uvloop's when it is installed."""
        return self._http.config.get_loop_factory()

    async def run(self, sockets: Sequence[socket.socket]) -> int:
        """Serve on bound sockets until signalled; returns an exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._gate is not None:
            loop.add_signal_handler(signal.SIGHUP, self._gate.look)
        for generation in self._served:
            generation.runner.start()
        if self._family is not None:
            await self._family.open(self._handlers.metrics_text, self._repository.prepared)
        serving = asyncio.create_task(self._http.serve(sockets=list(sockets)))
        try:
            failed = await self._until_told(serving, sockets)
            unanswered = await self._leave(serving, sockets)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if self._family is not None:
                await self._family.close()
        self._close_runners(0.0 if unanswered else _THREAD_GRACE)
        return EXIT_FAILED if failed or unanswered else EXIT_DONE

    async def _until_told(
        self, serving: asyncio.Task[None], sockets: Sequence[socket.socket]
    ) -> bool:
        """Warm up, say so, and wait for a signal; True when the start failed."""
        asked = asyncio.create_task(self._asked_to_stop.wait())
        warming = asyncio.create_task(self._warm())
        watching: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({asked, warming, serving}, return_when=asyncio.FIRST_COMPLETED)
            if warming.done() and warming.exception() is not None:
                self._complain(warming.exception())
                return True
            if warming.done() and not serving.done():
                # What is loaded stays: a collection that walks it all holds every call up by 40 ms.
                gc.collect()
                gc.freeze()
                self._lifecycle.on(Event.WARMED)
                self._say(self._ready_line(sockets))
                if self._settings.watch is not None:
                    watch = self._repository.watch(self._settings.watch, self._told)
                    watching = asyncio.create_task(watch)
                await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
            return serving.done()
        finally:
            for task in (asked, warming, watching):
                if task is not None:
                    task.cancel()

    async def _warm(self) -> None:
        for name, request in self._warm_up.items():
            scorer = self._served.find(name).runner.scorer
            # On a thread: the loop answers probes meanwhile, and nobody else scores yet.
            await asyncio.to_thread(warm, scorer, request, self._settings.batch)
        for seen in await self._repository.look(time.monotonic()):
            if seen.failure:
                self._say(f"not loaded, going on without: {seen.failure}")

    async def _change(self, asked: Mapping[str, str]) -> str:
        """Make an admin's change, here and in every sibling, or nowhere."""
        if self._family is None:
            return await self._repository.change(asked)
        return await self._family.change(asked, self._repository.prepared(asked))

    async def _told(self, seen: Seen) -> None:
        """Write down what watching the registry has led to."""
        _log.info("registry watched", extra={"model": seen.model, "bundle": seen.bundle})
        if self._audit is not None:
            outcome = "failed" if seen.failure else "done"
            why = {"reason": seen.failure} if seen.failure else {"bundle": seen.bundle}
            try:
                await asyncio.to_thread(
                    self._audit.append,
                    actor="watch",
                    action="model.load",
                    subject=seen.model,
                    detail={"outcome": outcome, **why},
                )
            except AuditBroken as broken:  # the registry has spoken: serving goes on
                _log.error("audit lacks a load", extra={"model": seen.model, "why": str(broken)})

    async def _leave(self, serving: asyncio.Task[None], sockets: Sequence[socket.socket]) -> int:
        """Drain; returns how many accepted requests were left without an answer of a model."""
        if self._asked_to_stop.is_set() and not serving.done():
            self._lifecycle.on(Event.DRAIN)
            await self._wait_unless_told_twice(self._settings.lame_duck)
            await self._http.stop_listening(sockets)
            await self._wait_unless_told_twice(LINGER)
        self._http.should_exit = True
        telling = asyncio.create_task(self._told_twice.wait())
        try:
            await asyncio.wait(
                {serving, telling},
                timeout=self._settings.drain,
                return_when=asyncio.FIRST_COMPLETED,
            )
            unanswered = 0
            if not serving.done():
                reason = "the endpoint is leaving and could not finish in time; ask another"
                unanswered = sum(each.runner.abandon(reason) for each in self._served)
                self._http.force_exit = self._told_twice.is_set()
            await serving
        finally:
            telling.cancel()
        self._lifecycle.on(Event.STOP)
        return unanswered

    async def _wait_unless_told_twice(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._told_twice.wait()
        except TimeoutError:
            pass

    def _on_signal(self) -> None:
        self._signals += 1
        (self._asked_to_stop if self._signals == 1 else self._told_twice).set()

    def _close_runners(self, timeout: float) -> None:
        for generation in self._served:
            if not generation.runner.close(timeout):
                name = generation.info.name
                _log.error("scoring thread did not stop", extra={"model": name})

    def _complain(self, error: BaseException | None) -> None:
        if not isinstance(error, TierlineError):
            _log.error("warm-up failed", exc_info=error)
        self._say(f"not started: the warm-up request failed: {error}")

    def _ready_line(self, sockets: Sequence[socket.socket]) -> str:
        tls = self._settings.tls is not None
        where = " and ".join(address(each, tls=tls) for each in sockets)
        infos = [generation.info for generation in self._served.answering()]
        what = "; ".join(f"model {info.name}, bundle {info.bundle}" for info in infos)
        return f"ready on {where} ({what})"


def _runners(
    scorers: Sequence[Scorer],
    make_runner: Callable[[Scorer], Runner],
    warm_up: Mapping[str, ScoreRequest],
) -> dict[str, Runner]:
    runners: dict[str, Runner] = {}
    for scorer in scorers:
        if scorer.info.name in runners:
            raise ConfigurationError(f"two scorers serve the model {scorer.info.name!r}")
        runners[scorer.info.name] = make_runner(scorer)
    if not runners:
        raise ConfigurationError("give at least one scorer to serve")
    if unknown := sorted(set(warm_up) - set(runners)):
        raise ConfigurationError(f"warm-up requests for models not served: {', '.join(unknown)}")
    return runners


def _repository_options(settings: ServerSettings) -> RepositoryOptions:
    return RepositoryOptions(
        batch=settings.batch,
        hold=settings.rollback_hold,
        unload_first=settings.unload_first,
    )


def _uvicorn_config(app: App | FamilyApp, settings: ServerSettings) -> uvicorn.Config:
    tls = settings.tls
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http=guarded_protocol(settings),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.drain) + 1,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        ssl_ca_certs=None if tls is None or tls.client_ca is None else str(tls.client_ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.verifies_callers else ssl.CERT_NONE,
    )


def say_line(line: str) -> None:
    """Tell whoever started this process, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

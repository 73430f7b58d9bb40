"""One replica under Ray Serve: verifies and loads its bundles, answers over ASGI with the same
handlers as every node, scores a request when it is asked how it is, and tells its load.

Ray imports this class, makes it in the replica's process and calls its methods by their names; no
line here needs ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tierline import BundleRefused, Unavailable
from tierline.wire import ScoreReply
from tierline_cloud.ray.health import PROBE_TIME, Probe, probe_of, verdict
from tierline_cloud.ray.mounted import Mounted
from tierline_cloud.ray.scaling import LoadWindow
from tierline_serving.access.gate import Gate
from tierline_serving.access.keyring import Keyring
from tierline_serving.app import App
from tierline_serving.batching import BatchReport, Runner
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.front.calls import Calls
from tierline_serving.handlers import Handlers
from tierline_serving.lifecycle import Event, Lifecycle
from tierline_serving.metrics import Metrics
from tierline_serving.oip.routes import OpenInference
from tierline_serving.serve_options import ServedScorer, prior_lookup
from tierline_serving.served import Served
from tierline_serving.settings import ServerSettings
from tierline_serving.signing import Trust
from tierline_serving.statistics import Statistics
from tierline_serving.warming import warm

CLOSING: float = 1.0  # seconds for a scoring thread with nothing left to do to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A verified bundle: its folder, the same on every node, and the id it must have there."""

    folder: str
    bundle: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """What every replica of a deployment is made from."""

    bundles: tuple[Placed, ...]
    trust: Trust
    settings: ServerSettings
    threads: int = 1
    allowed: tuple[str, ...] = ()  # packages whose code a bundle may bring


class Replica:
    """What Ray makes once a process. ``make_metrics`` is called in that process."""

    def __init__(
        self, options: ReplicaOptions, make_metrics: Callable[[], Metrics] = Metrics
    ) -> None:
        self._options = options
        self._metrics = make_metrics()
        self._statistics = Statistics()
        self._lifecycle = Lifecycle()
        self._window = LoadWindow(time.monotonic())
        self._batches = self._batches_before = 0
        self._probes: dict[str, Probe] = {}
        self._runners: dict[str, Runner] = {}

    async def __serve_build_asgi_app__(self) -> Mounted:
        """Load everything and give Ray the app. Raises BundleRefused: then Ray keeps the replicas
        it has."""
        # On a thread: Ray goes on asking for signs of life on the loop.
        scorers = await asyncio.to_thread(self._load)
        for name, scorer in scorers.items():
            self._runners[name] = Runner(scorer, self._options.settings.batch, on_batch=self._count)
            self._runners[name].start()
        self._lifecycle.on(Event.WARMED)
        return Mounted(self._app(scorers), leave=self.close)

    async def check_health(self) -> None:
        """Score a request of each model. Raises Unavailable with what is wrong."""
        has_scored, self._batches_before = self._batches > self._batches_before, self._batches
        for name, probe in self._probes.items():
            sick = verdict(probe, await self._probed(name, probe), has_scored=has_scored)
            if sick is not None:
                raise Unavailable(f"model {name!r} is not well: {sick}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The load since it was last asked for."""
        wait = max((runner.expected_wait() for runner in self._runners.values()), default=0.0)
        return self._window.take(time.monotonic(), wait).named()

    async def close(self) -> None:
        """Stop the scoring threads; Ray has seen to it that nothing is left to answer."""
        self._lifecycle.on(Event.STOP)
        for runner in self._runners.values():
            await asyncio.to_thread(runner.close, CLOSING)

    def _load(self) -> Mapping[str, ServedScorer]:
        from tierline_cloud.serve.scorer import load_scorer

        options = self._options
        scorers: dict[str, ServedScorer] = {}
        for placed in options.bundles:
            bundle = _opened(placed, options.trust)
            name, probe = bundle.manifest.model, probe_of(bundle)
            scorer = load_scorer(bundle, threads=options.threads, allowed=options.allowed)
            warm(scorer, probe.request, options.settings.batch)
            scorers[name], self._probes[name] = scorer, probe
        return scorers

    def _app(self, scorers: Mapping[str, ServedScorer]) -> App:
        settings = self._options.settings
        prior = prior_lookup(list(scorers.values()))
        priors = {name: prior(name) for name in scorers}
        served = Served.of(self._runners, priors)
        handlers = Handlers(served, settings, self._lifecycle, self._metrics)
        gate = None if settings.keys is None else Gate(Keyring(settings.keys))
        # No repository: a load asked for here would change one replica of many.
        inference = OpenInference(Calls(handlers, settings), statistics=self._statistics)
        return App(handlers, settings, gate=gate, inference=inference)

    async def _probed(self, name: str, probe: Probe) -> ScoreReply | Exception:
        try:
            return await self._runners[name].submit(probe.request, time.monotonic() + PROBE_TIME)
        except Exception as error:  # judged by the caller
            return error

    def _count(self, report: BatchReport) -> None:
        self._batches += 1
        self._window.add(report)
        self._metrics.batch_finished(report)
        self._statistics.batch_finished(report, time.time())


def _opened(placed: Placed, trust: Trust) -> Bundle:
    bundle = open_bundle(Path(placed.folder), trust)
    if bundle.id != placed.bundle:
        raise BundleRefused(
            f"{placed.folder} holds {bundle.id} here, and {placed.bundle} was deployed: every node "
            "must see the same folders"
        )
    return bundle

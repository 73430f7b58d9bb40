"""The client for threads: one call, answered from the cheapest tier that is good enough."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from tierline._base_client import BaseClient, Candidates, Query
from tierline._channels import Channel, ModelDescription, Outgoing, open_channel
from tierline._config import Criticality, Mode, Sovereignty
from tierline._core.call import ScoreCall
from tierline._core.probing import Prober
from tierline._exceptions import TierlineError, Unavailable
from tierline._shells import inline, threaded
from tierline._shells.errands import ThreadErrands
from tierline._shells.probing import ThreadProbes
from tierline._types import Answer

HEDGE_WORKERS = 64  # threads for attempts that may overlap; used only with a HedgePolicy


class Client(BaseClient):
    """Scores candidates and recommends items. One client serves many threads; close it at the end.

    >>> client = tierline.Client(edge=["http://127.0.0.1:8101"], cloud=["http://10.0.0.7:8201"])
    >>> answer = client.score("ranker", query={"history": [3, 5]}, candidates=[4, 9, 12])
    """

    _probes: ThreadProbes | None = None  # from the first call on, with a HealthPolicy
    _errands: ThreadErrands | None = None  # from the first one on

    def _open(self) -> None:
        self._lock = Lock()
        self._channels: dict[str, Channel] = {
            endpoint.url: open_channel(endpoint.url, self.config)
            for endpoint in self._fleet.endpoints()
        }
        self._workers: ThreadPoolExecutor | None = None
        if self.config.hedge is not None:
            self._workers = ThreadPoolExecutor(HEDGE_WORKERS, "tierline-attempt")

    def score(
        self,
        model: str,
        *,
        query: Query,
        candidates: Candidates,
        deadline: float | None = None,
        key: str | None = None,
        mode: Mode | str = Mode.SEQUENTIAL,
        version: str | None = None,
        traceparent: str | None = None,
        sovereignty: Sovereignty | None = None,
        criticality: Criticality | str = Criticality.DEFAULT,
    ) -> Answer:
        """Score every candidate for this query, within ``deadline`` seconds.

        ``key`` names what the last good answer is kept under (a user, a page); by default the
        query itself. ``version`` pins one bundle by its id, or every tier to bundles of one version
        (what stands before the ``@``); ``sovereignty`` narrows where this request may go;
        ``criticality`` ("critical", "default", "sheddable") says who gives way first when endpoints
        are full. Raises a CallError when every rung failed.
        """
        parts = self._call(
            model,
            query,
            candidates,
            None,
            deadline,
            key,
            mode,
            version,
            traceparent,
            sovereignty,
            criticality,
        )
        return self._run(*parts)

    def recommend(
        self,
        model: str,
        *,
        query: Query,
        k: int,
        deadline: float | None = None,
        key: str | None = None,
        mode: Mode | str = Mode.SEQUENTIAL,
        version: str | None = None,
        traceparent: str | None = None,
        sovereignty: Sovereignty | None = None,
        criticality: Criticality | str = Criticality.DEFAULT,
    ) -> Answer:
        """The ``k`` best items of the whole catalogue for this query, best first; −1 where the
        catalogue has fewer. The rest is as for ``score``."""
        parts = self._call(
            model,
            query,
            None,
            k,
            deadline,
            key,
            mode,
            version,
            traceparent,
            sovereignty,
            criticality,
        )
        return self._run(*parts)

    def prepare(self, model: str, *, timeout: float = 5.0) -> ModelDescription:
        """Ask endpoints in turn for the model's description and popularity prior, so that the
        last rung is at hand before it is needed. Raises Unavailable when none answers."""
        failures = []
        for url in self._askable():
            channel = self._channels[url]
            try:
                description = channel.describe(model, timeout)
                prior = channel.prior(model, timeout)
            except TierlineError as error:
                failures.append(f"{url}: {error}")
                continue
            with self._lock:
                self._learn(model, url, description, prior)
            if self._fleet.errands:
                self._ensure_errands().post()
            return description
        raise Unavailable(f"no endpoint describes {model!r}: {'; '.join(failures)}")

    def amplification(self) -> float:
        """Attempts ÷ what was asked of the tiers, over the last ten seconds: 1.0 is none wasted,
        and above 1.1 for long something keeps failing."""
        with self._lock:
            return super().amplification()

    def close(self) -> None:
        """Close every connection and stop every thread this client started."""
        if self._probes is not None:
            self._probes.stop()
        if self._errands is not None:
            self._errands.stop()
        if self._workers is not None:
            self._workers.shutdown(wait=True)
        for channel in self._channels.values():
            channel.close()

    def _run(self, call: ScoreCall, outgoing: Outgoing) -> Answer:
        if self._fleet.prober is not None:
            self._ensure_probes(self._fleet.prober)
        try:
            if self._workers is None:
                return inline.run(call, outgoing, self._channels, self._lock, self._clock)
            return threaded.run(
                call, outgoing, self._channels, self._lock, self._workers, self._clock
            )
        finally:
            if self._fleet.errands:
                self._ensure_errands().post()

    def _ensure_errands(self) -> ThreadErrands:
        if self._errands is None:
            with self._lock:
                self._errands = self._errands or ThreadErrands(
                    self._fleet, self._channels, self._clock, self._lock, self._shadow_call
                )
        return self._errands

    def _ensure_probes(self, prober: Prober) -> None:
        if self._probes is None:
            with self._lock:
                self._probes = self._probes or ThreadProbes(
                    prober, self._channels, self._clock, self._dice, self._lock
                )
        self._probes.ensure()

    def _forked(self) -> None:
        """A fork has none of its parent's threads, and perhaps a lock one of them held."""
        super()._forked()
        self._lock = Lock()
        self._probes = None
        self._errands = None
        if self._workers is not None:
            self._workers = ThreadPoolExecutor(HEDGE_WORKERS, "tierline-attempt")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

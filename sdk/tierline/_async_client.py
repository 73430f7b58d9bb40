"""The client for asyncio: one call, answered from the cheapest tier that is good enough."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tierline._base_client import BaseClient, Candidates, Query
from tierline._channels import AsyncChannel, ModelDescription, Outgoing, open_async_channel
from tierline._config import Criticality, Mode, Sovereignty
from tierline._core.call import ScoreCall
from tierline._core.probing import Prober
from tierline._exceptions import TierlineError, Unavailable
from tierline._shells import asyncio as shell
from tierline._shells.errands import AsyncErrands
from tierline._shells.probing import AsyncProbes
from tierline._types import Answer


class AsyncClient(BaseClient):
    """Scores candidates and recommends items. One client serves many tasks; close it at the end.

    >>> async with tierline.AsyncClient(edge=["http://127.0.0.1:8101"]) as client:
    ...     answer = await client.score("ranker", query={"history": [3, 5]}, candidates=[4, 9])
    """

    _probes: AsyncProbes | None = None  # from the first call on, with a HealthPolicy

    def _open(self) -> None:
        self._channels: dict[str, AsyncChannel] = {
            endpoint.url: open_async_channel(endpoint.url, self.config)
            for endpoint in self._fleet.endpoints()
        }
        self._errands = self._make_errands()

    def _make_errands(self) -> AsyncErrands:
        return AsyncErrands(self._fleet, self._channels, self._clock, self._shadow_call)

    async def score(
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
        return await self._run(*parts)

    async def recommend(
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
        return await self._run(*parts)

    async def prepare(self, model: str, *, timeout: float = 5.0) -> ModelDescription:
        """Ask endpoints in turn for the model's description and popularity prior, so that the
        last rung is at hand before it is needed. Raises Unavailable when none answers."""
        failures = []
        for url in self._askable():
            channel = self._channels[url]
            try:
                description = await channel.describe(model, timeout)
                prior = await channel.prior(model, timeout)
            except TierlineError as error:
                failures.append(f"{url}: {error}")
                continue
            self._learn(model, url, description, prior)
            self._errands.post()
            return description
        raise Unavailable(f"no endpoint describes {model!r}: {'; '.join(failures)}")

    async def _run(self, call: ScoreCall, outgoing: Outgoing) -> Answer:
        if self._fleet.prober is not None:
            self._ensure_probes(self._fleet.prober)
        try:
            return await shell.run(call, outgoing, self._channels, self._clock)
        finally:
            if self._fleet.errands:
                self._errands.post()

    def _ensure_probes(self, prober: Prober) -> None:
        if self._probes is None:
            self._probes = AsyncProbes(prober, self._channels, self._clock, self._dice)
        self._probes.ensure()

    async def aclose(self) -> None:
        """Close every connection this client opened, and stop its probes on this loop."""
        if self._probes is not None:
            await self._probes.stop()
        await self._errands.stop()
        for channel in self._channels.values():
            await channel.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

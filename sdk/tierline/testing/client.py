"""The shipped AsyncClient on a simulated network, by a simulated clock, with seeded dice."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from tierline._async_client import AsyncClient
from tierline._channels import AsyncChannel, AsyncHttpChannel, Outgoing
from tierline._config import ClientConfig
from tierline._core.certified import Shadow
from tierline._core.shadow_call import ShadowCall
from tierline._transports.base import AsyncTransport
from tierline.testing.loop import SimLoop
from tierline.testing.whose import SHADOWS, WHOSE

BOOTED = 1000.0  # what the monotonic clock shows when a run begins: no one may count on zero


class SimClock:
    """A monotonic clock over the loop's time, which can be made to drift."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._anchor = loop.time()
        self._shown = BOOTED
        self.rate = 1.0

    def __call__(self) -> float:
        return self._shown + (self._loop.time() - self._anchor) * self.rate

    def drift(self, rate: float) -> None:
        """From here on the clock runs ``rate`` times as fast; it never jumps."""
        self._shown, self._anchor = self(), self._loop.time()
        self.rate = rate


class SimulatedClient(AsyncClient):
    """Everything but clock, dice and transports is the shipped client."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        clock: SimClock,
        seed: int | str,
        transports: Mapping[str, AsyncTransport],
    ) -> None:
        self._clock = clock
        self._transports = transports
        super().__init__(config=config)
        self._dice = Random(f"{seed}/dice")

    def _shadow_call(self, shadow: Shadow) -> tuple[ShadowCall, Outgoing]:
        WHOSE.set(SHADOWS)  # in the errand's own task, which began as a copy of its call's
        return super()._shadow_call(shadow)

    def _open(self) -> None:
        self._channels: dict[str, AsyncChannel] = {
            url: AsyncHttpChannel(transport) for url, transport in self._transports.items()
        }
        self._errands = self._make_errands()

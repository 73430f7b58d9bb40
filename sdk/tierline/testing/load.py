"""What callers ask, and when: planned calls, drawn from a seed or spaced evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from tierline._config import Criticality, Mode, Sovereignty
from tierline.testing.nodes import BUNDLES
from tierline.testing.privacy import private_arrays
from tierline.testing.truth import CATALOGUE, MODEL
from tierline.wire import CANDIDATE_IDS, ScoreRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """One call of the load. ``number`` (from 1) names it on the wire, in its traceparent."""

    number: int
    at: float  # virtual seconds
    history: tuple[int, ...]
    candidates: tuple[int, ...] | None = None
    k: int | None = None
    deadline: float | None = None  # None: the client's own
    mode: Mode = Mode.SEQUENTIAL
    key: str | None = None
    version: str | None = None
    sovereignty: Sovereignty | None = None
    criticality: Criticality = Criticality.DEFAULT
    private: bool = False  # carries the private fields
    given_up_at: int | None = None  # the caller gives up at this await of the call (from 0)

    @property
    def request(self) -> ScoreRequest:
        """What every node should be asked."""
        candidates: dict[str, NDArray[np.generic]] | None = None
        if self.candidates is not None:
            candidates = {CANDIDATE_IDS: np.array(self.candidates, np.int64)}
        query: dict[str, NDArray[np.generic]] = {"history": np.array(self.history, np.int64)}
        if self.private:
            rows = None if self.candidates is None else len(self.candidates)
            of_query, of_candidates = private_arrays(self.number, rows)
            query |= of_query
            if candidates is not None:
                candidates |= of_candidates
        return ScoreRequest(
            model=MODEL,
            query=query,
            candidates=candidates,
            k=self.k,
            version=self.version,
        )

    @property
    def traceparent(self) -> str:
        """How the call is recognised behind the client."""
        return f"00-{self.number:032x}-{1:016x}-01"


Load = tuple[PlannedCall, ...]


def steady_load(rate: float, duration: float, *, seed: int | str = 0, start: float = 0.0) -> Load:
    """``rate`` calls a second, evenly spaced with a little jitter, for ``duration`` seconds."""
    rng = Random(f"{seed}/steady")
    return tuple(
        PlannedCall(
            number=i + 1,
            at=start + (i + 0.2 * rng.random()) / rate,
            history=(i + 1, 7, 9),
            candidates=(4, 9, 2),
        )
        for i in range(int(rate * duration))
    )


def typical_load(rng: Random, *, calls: int, until: float, start: float = 0.0) -> Load:
    """Ordinary calls of a few users: the client's own deadline and mode, bursts of one to eight."""
    return tuple(
        replace(
            call,
            deadline=None,
            mode=Mode.SEQUENTIAL,
            version=None,
            criticality=Criticality.DEFAULT,
        )
        for call in draw_load(rng, calls=calls, start=start, until=until)
    )


def draw_load(
    rng: Random,
    *,
    calls: int,
    until: float,
    policies: Sequence[Sovereignty | None] = (None,),
    start: float = 0.0,
    first: int = 1,
) -> Load:
    """``calls`` calls in bursts of one to eight, between ``start`` and ``until`` seconds."""
    planned: list[PlannedCall] = []
    while len(planned) < calls:
        at = start + (until - start) * rng.random()
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            if len(planned) < calls:
                number = first + len(planned)
                planned.append(_draw_call(rng, number, round(at, 6), policies))
                at += 0.02 * rng.random() ** 2
    return tuple(planned)


def _draw_call(
    rng: Random, number: int, at: float, policies: Sequence[Sovereignty | None]
) -> PlannedCall:
    call = PlannedCall(
        number=number,
        at=at,
        history=(number, *(1 + int(rng.random() * CATALOGUE) for _ in range(3))),
        deadline=rng.choice((None, None, 0.03, 0.08, 0.4)),
        key=rng.choice((None, "home", f"user-{int(rng.random() * 5)}")),
        mode=rng.choice((Mode.SEQUENTIAL,) * 8 + (Mode.EDGE_ONLY, Mode.CLOUD_ONLY)),
        version=rng.choice((None,) * 7 + (BUNDLES[1], BUNDLES[2])),
        sovereignty=rng.choice(list(policies)),
        private=True,
        criticality=rng.choice((Criticality.DEFAULT,) * 2 + tuple(Criticality)),
    )
    if rng.random() < 0.2:
        return replace(call, k=1 + int(rng.random() * 9))
    shown = tuple(1 + int(rng.random() * 50) for _ in range(1 + int(rng.random() * 9)))
    return replace(call, candidates=shown)

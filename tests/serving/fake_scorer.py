"""A scorer without a model, and a caller without a network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tierline import BadRequest
from tierline.wire import CANDIDATE_IDS, ErrorReply, ScoreReply, ScoreRequest, decode_error
from tierline_serving.scorer import ModelInfo

BUNDLE = "1@0123456789ab"
POISON = 666


class PoisonError(Exception):
    """What the fake model raises for a batch with a poisoned candidate; says a secret."""


class FakeScorer:
    """Scores a candidate by its id. A candidate POISON makes the whole batch raise.

    While ``gate`` is clear, ``score`` waits in the scoring thread; ``entered`` tells that it does.
    """

    def __init__(self, name: str = "ranker", *, bundle: str = BUNDLE) -> None:
        self.info = ModelInfo(
            name=name, bundle=bundle, kind="sequence", tier="edge", engine="fake", kernels="none"
        )
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []  # the first candidate of each request, batch by batch
        self.is_closed = False

    def validate(self, request: ScoreRequest) -> None:
        if request.candidates is None or CANDIDATE_IDS not in request.candidates:
            raise BadRequest("this model scores candidates given as ids")
        ids = request.candidates[CANDIDATE_IDS]
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind != "i":
            raise BadRequest(f"candidate ids must be int64[n], got {ids.dtype}{list(ids.shape)}")

    def rows(self, request: ScoreRequest) -> int:
        return len(ids_of(request))

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        self.entered.set()
        if not self.gate.wait(timeout=20):
            raise TimeoutError("nobody opened the gate")
        batch = [ids_of(request) for request in requests]
        self.batches.append([int(ids[0]) for ids in batch])
        if any(POISON in ids for ids in batch):
            raise PoisonError("the database password is hunter2")
        return [
            ScoreReply(model=self.info.name, bundle=self.info.bundle, scores=ids.astype(np.float32))
            for ids in batch
        ]

    def close(self) -> None:
        self.is_closed = True

    @property
    def scored(self) -> list[int]:
        """The first candidate of every request that reached the model."""
        return [first for batch in self.batches for first in batch]


def ids_of(request: ScoreRequest) -> np.ndarray[Any, np.dtype[np.int64]]:
    assert request.candidates is not None
    return request.candidates[CANDIDATE_IDS].astype(np.int64)


def a_request(*ids: int, model: str = "ranker", version: str | None = None) -> ScoreRequest:
    """Scores these candidates."""
    return ScoreRequest(
        model=model,
        query={"history": np.array([1, 2], np.int64)},
        candidates={CANDIDATE_IDS: np.array(ids, np.int64)},
        version=version,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the scoring thread go on until the condition holds; fails after 20 s."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


Asgi = Callable[[Any, Any, Any], Awaitable[None]]  # Any: ASGI's dicts


@dataclass
class Caller:
    """One HTTP exchange with an ASGI app, piece by piece."""

    pieces: list[bytes]
    hang_up: Any = None  # an asyncio.Event: set it and the caller is gone
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def call(
        self, app: Asgi, path: str, method: str, headers: Mapping[str, str] | None = None
    ) -> Caller:
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw}
        await app(scope, self._receive, self._send)
        return self

    @property
    def error(self) -> ErrorReply:
        return decode_error(self.body)

    async def _receive(self) -> dict[str, Any]:
        if self.pieces:
            piece = self.pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
        assert self.hang_up is not None, "the app waits for a body that has ended"
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                self.headers[name.decode()] = value.decode()
        else:
            self.body += message["body"]

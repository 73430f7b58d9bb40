"""The FastAPI example answers, ranks, and turns typed errors into truthful statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from fake_tier import fake_tier
from fastapi_backend.app import create_app

import tierline

Talk = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def talk(edge: str, conversation: Talk) -> httpx.Response:
    """Run the app with its lifespan against one edge endpoint and hold one conversation."""

    async def run() -> httpx.Response:
        app = create_app(lambda: tierline.AsyncClient(edge=[edge]))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as http,
        ):
            return await conversation(http)

    return asyncio.run(run())


def test_recommendations_skip_the_history_and_name_their_tier() -> None:
    with fake_tier("edge") as edge:
        response = talk(edge, lambda http: http.get("/recommendations/u1?history=1&history=3&k=3"))
    assert response.status_code == 200
    body = response.json()
    assert body["items"] == [2, 4, 5]
    assert (body["tier"], body["quality"]) == ("edge", "edge")


def test_candidates_come_back_in_the_users_order() -> None:
    wanted = {"history": [1], "candidates": [9, 4, 7]}
    with fake_tier("edge") as edge:
        response = talk(edge, lambda http: http.post("/rankings/u1", json=wanted))
    assert response.json()["items"] == [4, 7, 9]


@pytest.mark.parametrize(
    ("error", "status"),
    [(tierline.BadRequest, 400), (tierline.Unavailable, 503), (tierline.DeadlineExceeded, 504)],
)
def test_a_typed_error_becomes_its_status(
    monkeypatch: pytest.MonkeyPatch, error: type[tierline.CallError], status: int
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error("why")

    monkeypatch.setattr(tierline.AsyncClient, "recommend", fail)
    with fake_tier("edge") as edge:
        response = talk(edge, lambda http: http.get("/recommendations/u1"))
    assert (response.status_code, response.json()) == (status, {"detail": "why"})

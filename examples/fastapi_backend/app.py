"""A shop's backend: FastAPI with one AsyncClient for the whole life of the app."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import tierline

MODEL = "shop"
PAGE_DEADLINE = 0.2  # seconds: a page is worth no longer wait
EXAMPLE = """example:
  python examples/fastapi_backend/app.py --edge http://127.0.0.1:8101 --cloud http://127.0.0.1:8201
  curl 'http://127.0.0.1:8000/recommendations/user-17?history=3&history=5&k=5'"""
# What the browser is told when nobody could answer: whose fault it was, and whether to come again.
STATUS: dict[type[tierline.CallError], int] = {
    tierline.BadRequest: 400,
    tierline.NotPermitted: 403,
    tierline.ModelNotFound: 404,
    tierline.Overloaded: 503,
    tierline.Unavailable: 503,
    tierline.DeadlineExceeded: 504,
}


class Ranking(BaseModel):
    """Items best first, and where the ranking came from."""

    items: list[int]
    tier: str
    quality: str
    reason: str


class RankingWanted(BaseModel):
    """The candidates of a search page, to be put in order for one user."""

    history: list[int] = []
    candidates: list[int]


def create_app(open_client: Callable[[], tierline.AsyncClient]) -> FastAPI:
    """The app. ``open_client`` is called once, inside the running loop, when the app starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_client() as client:
            await client.prepare(MODEL)  # from here on even a total outage has an answer
            app.state.client = client
            yield

    app = FastAPI(title="A shop on Tierline", lifespan=lifespan)
    app.get("/recommendations/{user}")(recommend)
    app.post("/rankings/{user}")(rank)
    app.exception_handler(tierline.CallError)(_say_what_failed)
    return app


def _client(request: Request) -> tierline.AsyncClient:
    client: tierline.AsyncClient = request.app.state.client
    return client


TheClient = Annotated[tierline.AsyncClient, Depends(_client)]
History = Annotated[list[int], Query(default_factory=list)]


async def recommend(user: str, client: TheClient, history: History, k: int = 10) -> Ranking:
    """The ``k`` best items of the whole catalogue for a user."""
    answer = await client.recommend(
        MODEL, query={"history": history}, k=k, key=user, deadline=PAGE_DEADLINE
    )
    return _ranking(answer)


async def rank(user: str, wanted: RankingWanted, client: TheClient) -> Ranking:
    """The given candidates in the user's order."""
    answer = await client.score(
        MODEL,
        query={"history": wanted.history},
        candidates=wanted.candidates,
        key=user,
        deadline=PAGE_DEADLINE,
    )
    return _ranking(answer)


def _ranking(answer: tierline.Answer) -> Ranking:
    return Ranking(
        items=[item for item, _ in answer.top(len(answer.scores))],
        tier=answer.tier,
        quality=answer.quality,
        reason=answer.reason,
    )


async def _say_what_failed(request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 502)
    return JSONResponse({"detail": str(error)}, status_code=status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edge", nargs="+", required=True, help="edge endpoints")
    parser.add_argument("--cloud", nargs="*", default=[], help="cloud endpoints")
    parser.add_argument("--port", type=int, default=8000, help="where to listen (8000)")
    options = parser.parse_args()
    open_client = functools.partial(tierline.AsyncClient, edge=options.edge, cloud=options.cloud)
    uvicorn.run(create_app(open_client), port=options.port)

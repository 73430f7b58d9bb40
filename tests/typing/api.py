"""The public API as a typed application uses it. Never run: mypy checks it (`make types`).

A line under `type: ignore` is a mistake mypy must catch: were it to stop doing so, the unused
ignore itself is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import tierline
from tierline import Answer, AsyncClient, Attempt, Client


def clients_are_made_from_addresses_a_config_or_a_file() -> None:
    assert_type(Client(edge=["http://127.0.0.1:8101"], cloud=("https://cloud.example",)), Client)
    assert_type(Client.from_toml("tierline.toml"), Client)
    assert_type(AsyncClient.from_toml(Path("tierline.toml")), AsyncClient)
    endpoint = tierline.Endpoint(url="unix:///run/tierline.sock", weight=2.0)
    tier = tierline.Tier(name="edge", kind="edge", endpoints=(endpoint,))
    config = tierline.ClientConfig(tiers=(tier,), hedge=tierline.HedgePolicy(after=0.02))
    assert_type(Client(config=config), Client)
    Client(edge=["http://127.0.0.1:8101"], transport="pigeon")  # type: ignore[arg-type]
    Client(["http://127.0.0.1:8101"])  # type: ignore[call-arg]
    config.deadline = 1.0  # type: ignore[misc]


def policies_are_keyword_only_values() -> None:
    tierline.RetryPolicy(attempts=3, base=0.01)
    tierline.BreakerPolicy(consecutive=5)
    tierline.EscalationPolicy(threshold=0.3, budget=0.2)
    tierline.RetryPolicy(3)  # type: ignore[call-arg]


def a_thread_scores_and_recommends() -> None:
    with Client(edge=["http://127.0.0.1:8101"], balancing="consistent_hash") as client:
        assert_type(client, Client)
        answer = client.score(
            "ranker",
            query={"history": np.array([3, 5], dtype=np.int64)},
            candidates=[4, 9, 12],
            deadline=0.080,
            mode=tierline.Mode.SEQUENTIAL,
        )
        assert_type(answer, Answer)
        by_feature = {"price": np.zeros((3, 1), dtype=np.float32)}
        client.score("ranker", query={"history": [3, 5]}, candidates=by_feature, mode="edge_only")
        assert_type(client.recommend("ranker", query={"history": [3, 5]}, k=20), Answer)
        client.score("ranker", {"history": [3, 5]}, [4, 9])  # type: ignore[call-arg]
        client.recommend("ranker", query={"history": [3]}, k="ten")  # type: ignore[arg-type]


async def a_task_scores_and_recommends() -> None:
    async with AsyncClient(edge=["http://127.0.0.1:8101"]) as client:
        assert_type(client, AsyncClient)
        query = {"history": [3, 5]}
        assert_type(await client.score("ranker", query=query, candidates=[4, 9]), Answer)
        assert_type(await client.recommend("ranker", query=query, k=20), Answer)
        (await client.prepare("ranker", timeout=1.0))
        client.score("ranker", query=query, candidates=[4]).scores  # type: ignore[attr-defined]  # noqa: B018


def an_answer_is_read(answer: Answer) -> None:
    assert_type(answer.scores, NDArray[np.float32])
    assert_type(answer.items, NDArray[np.int64] | None)
    assert_type(answer.order, NDArray[np.int64])
    assert_type(answer.top(10), list[tuple[int, float]])
    assert_type(answer.tier, str)
    assert_type(answer.bundle, str)
    assert_type(answer.quality, str)
    assert_type(answer.reason, str)
    assert_type(answer.uncertainty, float | None)
    assert_type(answer.elapsed, float)
    assert_type(answer.attempts, tuple[Attempt, ...])


def errors_carry_what_happened(client: Client) -> float | None:
    try:
        client.score("ranker", query={"history": [3]}, candidates=[4])
    except tierline.Overloaded as error:
        return error.retry_after
    except tierline.CallError as error:
        assert_type(error.attempts, tuple[Attempt, ...])
        assert_type(error.elapsed, float)
    return None

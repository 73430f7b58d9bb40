"""A replica without Ray: loads, answers over ASGI, scores when asked how it is, tells its load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import cloud_bundles
import numpy as np
import pytest

from tierline import BundleRefused, DeadlineExceeded, ModelFailed, Overloaded, Unavailable
from tierline.cli import EXIT_DONE, main
from tierline.wire import ScoreReply, ScoreRequest, decode_error, decode_reply, encode_request
from tierline_cloud.ray.health import Probe, probe_of, verdict
from tierline_cloud.ray.mounted import Mounted, below
from tierline_cloud.ray.ray_metrics import RayCounts
from tierline_cloud.ray.replica import Placed, Replica, ReplicaOptions
from tierline_cloud.ray.scaling import BUSY, COST, DELAY
from tierline_cloud.serve.scorer import load_scorer
from tierline_serving.batching.limits import BatchLimits
from tierline_serving.bundle import Bundle
from tierline_serving.metrics import Metrics
from tierline_serving.settings import ServerSettings
from tierline_serving.signing import Signer, Trust

SMALL = BatchLimits(max_batch_rows=64)  # little to warm up
REQUEST = ScoreRequest(model="ranker", query={"history": np.array([5, 6])}, k=4)
BODY = b"".join(encode_request(REQUEST))


def options(bundle: Bundle, **changes: Any) -> ReplicaOptions:
    known: dict[str, Any] = {
        "bundles": (Placed(folder=str(bundle.path), bundle=bundle.id),),
        "trust": Trust(allow_unsigned=True),
        "settings": ServerSettings(batch=SMALL),
    }
    return ReplicaOptions(**{**known, **changes})


async def ask(
    app: Mounted, body: bytes = b"", path: str = "/v1/score", **scope: Any
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []
    bodies = [body]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.get_running_loop().create_future()  # nobody hangs up
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    known = {
        "type": "http", "method": "POST" if body else "GET", "path": path,
        "raw_path": path.encode(), "headers": [(b"x-request-id", b"abc")],
    }  # fmt: skip
    await app({**known, **scope}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def with_replica(replica: Replica, scenario: Callable[[Mounted], Awaitable[None]]) -> None:
    async def run() -> None:
        app = await replica.__serve_build_asgi_app__()
        try:
            await scenario(app)
        finally:
            await replica.close()

    asyncio.run(run())


def test_it_answers_as_its_scorer_does(sasrec_bundle: Bundle) -> None:
    (expected,) = load_scorer(sasrec_bundle, threads=1).score([REQUEST])

    async def scenario(app: Mounted) -> None:
        status, headers, body = await ask(app, BODY)
        assert status == 200
        assert decode_reply(body).scores.tobytes() == expected.scores.tobytes()
        assert headers[b"x-tierline-bundle"] == sasrec_bundle.id.encode()
        assert float(headers[b"x-tierline-queue-ms"]) >= 0.0
        assert b"x-request-id" not in headers  # Ray's proxy says it: once is enough

    with_replica(Replica(options(sasrec_bundle)), scenario)


def test_below_a_regions_prefix_it_answers_the_same(sasrec_bundle: Bundle) -> None:
    async def scenario(app: Mounted) -> None:
        assert (await ask(app, BODY, "/eu/v1/score", root_path="/eu"))[0] == 200
        assert (await ask(app, b"", "/eu/readyz", root_path="/eu"))[0] == 200
        status, _, prior = await ask(app, b"", "/eu/v1/models/ranker/prior", root_path="/eu")
        assert (status, len(decode_reply(prior).scores)) == (200, cloud_bundles.ITEMS)

    with_replica(Replica(options(sasrec_bundle)), scenario)


def test_its_models_cannot_be_changed_one_replica_at_a_time(sasrec_bundle: Bundle) -> None:
    async def scenario(app: Mounted) -> None:
        status, _, body = await ask(app, b"{}", "/v2/repository/models/ranker/load")
        assert (status, b"no repository" in body) == (501, True)

    with_replica(Replica(options(sasrec_bundle)), scenario)


def test_a_key_is_asked_for_where_there_are_keys(sasrec_bundle: Bundle, tmp_path: Any) -> None:
    keys = tmp_path / "keys.json"
    assert main(["keys", "create", "--file", str(keys), "--scope", "score"]) == EXIT_DONE

    async def scenario(app: Mounted) -> None:
        status, _, body = await ask(app, BODY)
        assert (status, decode_error(body).code) == (401, "unauthenticated")

    with_replica(
        Replica(options(sasrec_bundle, settings=ServerSettings(batch=SMALL, keys=keys))), scenario
    )


def test_it_tells_its_load(sasrec_bundle: Bundle) -> None:
    replica = Replica(options(sasrec_bundle))

    async def scenario(app: Mounted) -> None:
        await ask(app, BODY)
        load = await replica.record_autoscaling_stats()
        assert set(load) == {DELAY, BUSY, COST}
        assert load[COST] > 0.0
        assert 0.0 < load[BUSY] <= 1.0
        assert (await replica.record_autoscaling_stats())[COST] == 0.0

    with_replica(replica, scenario)


def test_a_health_check_runs_the_model(sasrec_bundle: Bundle) -> None:
    seen: list[str] = []

    class Batches:
        def observe(self, value: float, tags: Any = None) -> None:
            seen.append(tags["model"])

    class Nothing:
        def observe(self, value: float, tags: Any = None) -> None: ...
        def inc(self, value: float = 1.0, tags: Any = None) -> None: ...

    none = Nothing()
    metrics = Metrics(
        RayCounts(requests=none, rejected=none, latency=none, queue=none, compute=Batches())
    )
    replica = Replica(options(sasrec_bundle), lambda: metrics)

    async def scenario(app: Mounted) -> None:
        await replica.check_health()
        assert seen == ["ranker"]

    with_replica(replica, scenario)


def test_a_replica_whose_thread_has_gone_is_sick(sasrec_bundle: Bundle) -> None:
    replica = Replica(options(sasrec_bundle))

    async def scenario(app: Mounted) -> None:
        await asyncio.to_thread(replica._runners["ranker"].close)
        with pytest.raises(Unavailable, match="'ranker' is not well"):
            await replica.check_health()

    with_replica(replica, scenario)


def test_an_unsigned_bundle_is_refused_by_every_replica(sasrec_bundle: Bundle) -> None:
    trust = Trust(keys=(Signer.generate().public_key,))
    replica = Replica(options(sasrec_bundle, trust=trust))
    with pytest.raises(BundleRefused, match="not signed"):
        asyncio.run(replica.__serve_build_asgi_app__())


def test_another_bundle_in_the_folder_is_refused(sasrec_bundle: Bundle) -> None:
    placed = Placed(folder=str(sasrec_bundle.path), bundle="1@000000000000")
    replica = Replica(options(sasrec_bundle, bundles=(placed,)))
    with pytest.raises(BundleRefused, match="every node must see the same folders"):
        asyncio.run(replica.__serve_build_asgi_app__())


def test_ray_ends_a_replica_by_its_life_span(sasrec_bundle: Bundle) -> None:
    replica = Replica(options(sasrec_bundle))

    async def scenario() -> list[str]:
        app = await replica.__serve_build_asgi_app__()
        coming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        told: list[str] = []

        async def receive() -> dict[str, Any]:
            return coming.pop(0)

        async def send(message: dict[str, Any]) -> None:
            told.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        assert not replica._runners["ranker"].is_alive
        return told

    assert asyncio.run(scenario()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# What is asked, and what is made of the answer


def test_the_probe_fits_either_kind(sasrec_bundle: Bundle, tmp_path: Any) -> None:
    own = cloud_bundles.write_own(tmp_path)
    scorer = load_scorer(own, threads=1, allowed=["cloud_bundles"])
    scorer.validate(probe_of(own).request)
    assert scorer.rows(probe_of(own).request) == 1
    load_scorer(sasrec_bundle, threads=1).validate(probe_of(sasrec_bundle).request)


REPLY = ScoreReply(model="ranker", bundle="1@x", scores=np.array([1.0, 2.0], np.float32))
WRONG = REPLY._replace(scores=np.array([1.0, 2.5], np.float32))


@pytest.mark.parametrize(
    ("outcome", "has_scored", "sick"),
    [
        (REPLY, True, None),
        (WRONG, True, "differ by 0.5"),
        (Overloaded("full"), False, None),  # busy is not sick
        (DeadlineExceeded("late"), True, None),  # slow, but it goes on
        (DeadlineExceeded("late"), False, "nothing was scored"),
        (ModelFailed("boom"), True, "ModelFailed: boom"),
        (RuntimeError("boom"), True, "RuntimeError: boom"),
    ],
)
def test_busy_is_not_sick_and_wrong_is(
    outcome: ScoreReply | Exception, has_scored: bool, sick: str | None
) -> None:
    found = verdict(Probe(REQUEST, REPLY, 1e-4), outcome, has_scored=has_scored)
    assert (found is None) == (sick is None)
    assert sick is None or sick in str(found)


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/v1/score", "", "/v1/score"),
        ("/eu/v1/score", "/eu", "/v1/score"),
        ("/europe/v1", "/eu", "/europe/v1"),
        ("/eu", "/eu", "/eu"),
    ],
)
def test_a_prefix_is_taken_off_whole_or_not_at_all(path: str, root: str, expected: str) -> None:
    scope = below({"path": path, "raw_path": path.encode(), "root_path": root})
    assert (scope["path"], scope["raw_path"]) == (expected, expected.encode())

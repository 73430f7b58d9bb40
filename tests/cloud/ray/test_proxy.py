"""What stands before Ray's proxy: routes, deadlines, and Ray's refusals in Tierline's words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.wire import decode_error
from tierline_cloud.ray.plan import REGIONAL
from tierline_cloud.ray.proxy import (
    ANYWHERE,
    NOWHERE,
    WHO_PATH,
    Front,
    middlewares,
    routed,
    translated,
    with_timeout,
)

FRAME = (b"content-type", b"application/x-tierline")
PLAIN = (b"content-type", b"text/plain")


class Ray:
    """Stands for the proxy's app: keeps the scope, answers what it was told to, in pieces."""

    def __init__(self, status: int | None, *body: bytes, headers: tuple[Any, ...] = (PLAIN,)):
        self.status, self.body, self.headers = status, body, headers
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = dict(scope)
        if self.status is None:
            return
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await send(start)
        for number, part in enumerate(self.body, 1):
            more = number < len(self.body)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def ask(
    ray: Ray, path: str = "/v1/score", *headers: tuple[bytes, bytes], region: str = ANYWHERE
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of one answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "headers": list(headers),
    }  # fmt: skip
    asyncio.run(Front(ray, region=region)(scope, receive, send))
    starts = [each for each in sent if each["type"] == "http.response.start"]
    assert len(starts) == 1
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return starts[0]["status"], dict(starts[0]["headers"]), body


def test_an_answer_of_a_replica_passes_untouched() -> None:
    hint = (b"x-tierline-queue-ms", b"1.250")
    ray = Ray(200, b"\x00frame", b"\xff", headers=(FRAME, hint, (b"x-request-id", b"abc")))
    status, headers, body = ask(ray)
    assert (status, body) == (200, b"\x00frame\xff")
    assert headers == dict((FRAME, hint, (b"x-request-id", b"abc")))


def test_a_typed_refusal_of_a_replica_passes_untouched() -> None:
    status, _, body = ask(Ray(429, b"its own frame", headers=(FRAME,)))
    assert (status, body) == (429, b"its own frame")


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (429, 429, "overloaded"),
        (408, 504, "deadline_exceeded"),
        (404, 503, "unavailable"),
        (500, 503, "unavailable"),
        (503, 503, "unavailable"),
    ],
)
def test_a_refusal_of_rays_own_becomes_a_typed_error(said: int, status: int, code: str) -> None:
    ray = Ray(said, b"some ", b"words", headers=(PLAIN, (b"x-request-id", b"abc")))
    found, headers, body = ask(ray)
    assert found == status
    assert headers[b"content-type"] == FRAME[1]
    assert headers[b"x-request-id"] == b"abc"
    assert headers[b"content-length"] == b"%d" % len(body)
    assert decode_error(body).code == code


def test_a_full_proxy_says_when_to_come_back() -> None:
    _, headers, body = ask(Ray(429, b"full", headers=(PLAIN, (b"retry-after", b"1"))))
    assert decode_error(body).retry_after == 1.0
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-tierline-reason"] == b"proxy_full"


def test_a_replica_that_died_is_an_answer_too() -> None:
    status, headers, body = ask(Ray(None), "/v1/score", (b"x-request-id", b"abc"))
    assert (status, headers[b"x-request-id"]) == (503, b"abc")
    assert headers[b"x-tierline-reason"] == b"replica_lost"
    assert decode_error(body).code == "unavailable"


def test_other_paths_keep_rays_answer() -> None:
    status, headers, body = ask(Ray(503, b"words"), "/v2/health/ready")
    assert (status, headers, body) == (503, dict([PLAIN]), b"words")


def test_a_request_goes_to_the_proxys_own_region() -> None:
    ray = Ray(200, b"", headers=(FRAME,))
    ask(ray, "/v1/score", region="eu")
    assert (ray.scope["path"], ray.scope["raw_path"]) == ("/eu/v1/score", b"/eu/v1/score")
    ask(ray, "/us/v1/score", region="eu")  # a caller cannot choose another
    assert ray.scope["path"] == "/eu/us/v1/score"
    ask(ray, "/v1/models", region="eu")
    assert ray.scope["path"] == "/eu/v1/models"


def test_without_regions_paths_stay() -> None:
    ray = Ray(200, b"", headers=(FRAME,))
    ask(ray, "/v1/score")
    assert ray.scope["path"] == "/v1/score"


def test_rays_own_paths_stay_in_every_region() -> None:
    ray = Ray(200, b"success")
    ask(ray, "/-/healthz", region="eu")
    assert ray.scope["path"] == "/-/healthz"
    ask(ray, "/-/healthz", region=NOWHERE)
    assert ray.scope["path"] == "/-/healthz"


def test_a_node_without_the_label_serves_nobody() -> None:
    ray = Ray(200, b"", headers=(FRAME,))
    status, _, body = ask(ray, region=NOWHERE)
    assert (status, decode_error(body).code, ray.scope) == (503, "unavailable", {})


def test_a_proxy_says_which_region_it_serves() -> None:
    assert ask(Ray(404), WHO_PATH, region="eu")[2] == b"eu"
    assert ask(Ray(404), WHO_PATH)[2] == ANYWHERE.encode()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(b"x-tierline-deadline-ms", b"80.5")], [b"0.080500"]),
        ([(b"x-tierline-deadline-ms", b"soon")], []),
        ([(b"x-tierline-deadline-ms", b"0.0")], []),
        ([], []),
        ([(b"x-tierline-deadline-ms", b"1"), (b"x-tierline-deadline-ms", b"2")], []),
        ([(b"x-request-timeout-seconds", b"9"), (b"x-tierline-deadline-ms", b"80")], [b"0.080000"]),
        ([(b"X-Request-Timeout-Seconds", b"9")], []),
    ],
)
def test_the_callers_deadline_is_rays_timeout(
    said: list[tuple[bytes, bytes]], expected: list[bytes]
) -> None:
    scope = with_timeout({"headers": said})
    named = [pair for pair in scope["headers"] if pair[0].lower() == b"x-request-timeout-seconds"]
    assert [value for _, value in named] == expected
    kept = [pair for pair in said if b"deadline" in pair[0]]
    assert [pair for pair in scope["headers"] if b"deadline" in pair[0]] == kept


@given(status=st.integers(300, 599), said=st.text(max_size=500), after=st.binary(max_size=8))
def test_whatever_ray_says_becomes_an_error_that_travels(
    status: int, said: str, after: bytes
) -> None:
    answer = ask(
        Ray(status, said.encode("utf-8", "replace"), headers=(PLAIN, (b"retry-after", after)))
    )
    code = decode_error(answer[2]).code
    assert code in ("overloaded", "deadline_exceeded", "unavailable")
    error, reason = translated(status, [(b"retry-after", after)], said)
    assert error.code == code
    assert reason.isidentifier()


def test_routed_keeps_percent_signs() -> None:
    scope = {"path": "/v1/models/a b", "raw_path": b"/v1/models/a%20b"}
    assert routed(scope, "eu")["raw_path"] == b"/eu/v1/models/a%20b"


def test_ray_gets_one_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REGIONAL, raising=False)
    (found,) = middlewares()
    assert (found.cls, found.kwargs) == (Front, {"region": ANYWHERE})

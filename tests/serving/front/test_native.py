"""Native calls answered on the connection mean the same as through ASGI, in every way they end."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import httptools
import pytest
from fake_scorer import a_request, until
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import a_post, answered, chunked, hang_up, listening

from tierline._channels import HttpChannel, Outgoing
from tierline._exceptions import ConnectFailed
from tierline._transports.base import WireRequest, WireResponse
from tierline._transports.http1 import field_lines, request_head
from tierline.wire import CONTENT_TYPE, decode_error, decode_reply, encode_request, read_headers
from tierline.wire.headers import BODY_ALIGNMENT
from tierline_serving.access.gate import Gate
from tierline_serving.access.keyring import Keyring, create_key
from tierline_serving.access.scopes import Scope
from tierline_serving.form import is_compiled
from tierline_serving.front.heads import Head, call_headers, read_head, read_own
from tierline_serving.lifecycle import Event
from tierline_serving.said import Said, said_by


@pytest.mark.parametrize(
    ("model", "extra", "is_read"),
    [
        ("ranker", "x-request-id: abc-1\r\nx-tierline-deadline-ms: 5000.0\r\n", True),
        ("nobody", "x-request-id: abc-1\r\n", True),
        ("ranker", "x-tierline-deadline-ms: soon\r\n", False),
        ("ranker", "x-tierline-deadline-ms: 0.0\r\nx-request-id: abc-1\r\n", False),
    ],
)
def test_both_ways_give_the_same_status_headers_and_frame(
    model: str, extra: str, is_read: bool
) -> None:
    async def scenario() -> None:
        async with listening() as node:
            native = await node.ask(a_post(3, 4, extra=extra, model=model))
            assert len(node.natives) == is_read
            through_asgi = await node.ask(chunked(3, 4, extra=extra, model=model))
            assert len(node.natives) == is_read
            assert native[0] == through_asgi[0]
            assert set(native[1]) == set(through_asgi[1])
            if native[0] == 200:
                both = [
                    decode_reply(answer[2]).scores.tolist() for answer in (native, through_asgi)
                ]
                assert both == [[3.0, 4.0]] * 2
            else:
                assert native[2] == through_asgi[2]

    asyncio.run(scenario())


def test_a_frame_is_answered_wherever_it_lies_behind_its_head() -> None:
    async def scenario() -> None:
        async with listening() as node:
            for filler in range(BODY_ALIGNMENT):
                for _ in range(2):  # parsed, then remembered
                    extra = f"x-request-id: {'i' * (filler + 1)}\r\n"
                    status, _, body = await node.ask(a_post(3, 4, extra=extra))
                    assert status == 200
                    assert decode_reply(body).scores.tolist() == [3.0, 4.0]
            assert len(node.natives) == 2 * BODY_ALIGNMENT

    asyncio.run(scenario())


def keyed(folder: Path, *scopes: Scope, rate: float | None = None) -> tuple[Gate, str]:
    """A gate, and the line a caller with a key of these scopes sends."""
    file = folder / "keys.json"
    _, token = create_key(file, frozenset(scopes), rate=rate)
    return Gate(Keyring(file)), f"authorization: Bearer {token}\r\n"


def test_who_shows_a_key_is_answered_on_the_connection_too(tmp_path: Path) -> None:
    gate, line = keyed(tmp_path, Scope.SCORE)

    async def scenario() -> None:
        async with listening(gate=gate) as node:
            status, _, body = await node.ask(a_post(3, 4, extra=line))
            assert (status, len(node.natives)) == (200, 1)
            assert decode_reply(body).scores.tolist() == [3.0, 4.0]
            assert (await node.ask(chunked(3, 4, extra=line)))[0] == 200
            assert len(node.natives) == 1

    asyncio.run(scenario())


def test_our_own_client_s_key_is_read_with_its_head(tmp_path: Path) -> None:
    gate, line = keyed(tmp_path, Scope.SCORE)
    frame = b"".join(encode_request(a_request(1, 2)))
    own = (
        "POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-tierline\r\n"
        f"{line}x-tierline-deadline-ms: 5000.000\r\nx-tierline-attempt: 1\r\n"
        f"x-request-id: r-1\r\ncontent-length: {len(frame)}\r\n\r\n"
    ).encode() + frame

    async def scenario() -> None:
        assert read_own(own) is not None
        async with listening(gate=gate) as node:
            assert (await node.ask(own))[0] == 200
            assert (await node.ask(own.replace(b"Bearer ", b"Bearer x")))[0] == 401
            assert (await node.ask(own.replace(line.encode(), b"")))[0] == 401
            assert len(node.natives) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("line", "status"),
    [("", 401), ("authorization: Bearer no.key\r\n", 401), ("authorization: basic a\r\n", 401)],
)
def test_without_a_good_key_nothing_is_answered_either_way(
    tmp_path: Path, line: str, status: int
) -> None:
    gate, _ = keyed(tmp_path, Scope.SCORE)

    async def scenario() -> None:
        async with listening(gate=gate) as node:
            answers = [await node.ask(post(3, 4, extra=line)) for post in (a_post, chunked)]
            assert [answer[0] for answer in answers] == [status, status]
            assert answers[0][1:] == answers[1][1:]
            assert not node.natives
            assert not node.scorer.batches

    asyncio.run(scenario())


def test_a_key_without_the_scope_is_refused_and_one_too_often_shown_is_told_to_wait(
    tmp_path: Path,
) -> None:
    gate, other = keyed(tmp_path, Scope.METRICS)
    _, line = keyed(tmp_path, Scope.SCORE, rate=0.001)
    gate.look()

    async def scenario() -> None:
        async with listening(gate=gate) as node:
            assert (await node.ask(a_post(1, extra=other)))[0] == 403
            assert (await node.ask(a_post(1, extra=line)))[0] == 200
            status, headers, _ = await node.ask(a_post(1, extra=line))
            assert status == 429
            assert int(headers["retry-after"]) > 1
            assert len(node.natives) == 1

    asyncio.run(scenario())


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 200), max_size=4))
def test_a_request_in_any_pieces_is_answered(cuts: list[int]) -> None:
    async def scenario() -> None:
        async with listening() as node:
            whole = a_post(5, 6)
            edges = [0, *sorted({cut for cut in cuts if cut < len(whole)}), len(whole)]
            pieces = [whole[low:high] for low, high in pairwise(edges)]
            status, _, body = await node.ask(*pieces)
            assert (status, decode_reply(body).scores.tolist()) == (200, [5.0, 6.0])

    asyncio.run(scenario())


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(
                a_post(1) + chunked(2) + a_post(3) + b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
            )
            scores = [decode_reply((await answered(reader))[2]).scores.tolist() for _ in range(3)]
            assert scores == [[1.0], [2.0], [3.0]]
            assert (await answered(reader))[2] == b"alive\n"
            writer.write(a_post(4))
            assert (await answered(reader))[0] == 200
            await hang_up(writer)

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "extra"), [("1.0", ""), ("1.1", "connection: close\r\n")])
def test_a_caller_who_wants_no_more_is_hung_up_on(version: str, extra: str) -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(a_post(1, version=version, extra=extra))
            status, headers, _ = await answered(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            await hang_up(writer)

    asyncio.run(scenario())


def test_a_draining_endpoint_answers_and_asks_to_leave() -> None:
    async def scenario() -> None:
        async with listening() as node:
            node.lifecycle.on(Event.DRAIN)
            status, headers, _ = await node.ask(a_post(1))
            assert (status, headers["connection"]) == (200, "close")

    asyncio.run(scenario())


def test_a_caller_who_hangs_up_takes_his_request_along() -> None:
    async def scenario() -> None:
        async with listening() as node:
            node.scorer.gate.clear()
            first = asyncio.create_task(node.ask(a_post(1)))
            await until(node.scorer.entered.is_set)
            _, writer = await node.connect()
            writer.write(a_post(2))
            await until(lambda: node.runner.unanswered == 2)
            await hang_up(writer)
            await until(lambda: node.runner.unanswered == 1)
            node.scorer.gate.set()
            assert (await first)[0] == 200
            assert node.scorer.scored == [1]

    asyncio.run(scenario())


def test_a_body_that_stops_coming_is_408() -> None:
    async def scenario() -> None:
        async with listening(read_timeout=0.05) as node:
            status, headers, body = await node.ask(a_post(1, 2)[:-3])
            assert (status, headers["connection"]) == (408, "close")
            assert "did not arrive within 0.05 s" in decode_error(body).message

    asyncio.run(scenario())


def test_a_connection_between_two_calls_is_kept_and_an_idle_one_is_closed() -> None:
    async def scenario() -> None:
        async with listening() as node:
            reader, writer = await node.connect()
            writer.write(a_post(1))
            await answered(reader)
            protocol = node.natives[0]._connection
            protocol.timeout_keep_alive_handler()  # type: ignore[attr-defined]
            writer.write(a_post(2))
            assert (await answered(reader))[0] == 200, "it rang before its time"
            protocol.idle_from -= 60.0  # type: ignore[attr-defined]
            protocol.timeout_keep_alive_handler()  # type: ignore[attr-defined]
            assert await reader.read() == b""
            await hang_up(writer)

    asyncio.run(scenario())


def test_native_calls_are_counted_like_all_others() -> None:
    async def scenario() -> None:
        async with listening() as node:
            await node.ask(a_post(1))
            await node.ask(a_post(1, model="nobody"))
            text = (await node.ask(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"))[2].decode()
            assert 'tierline_requests_total{code="ok"} 1.0' in text
            assert 'tierline_requests_total{code="model_not_found"} 1.0' in text
            assert "tierline_inflight_requests 0.0" in text
            metadata = json.loads((await node.ask(b"GET /metadata HTTP/1.1\r\nhost: a\r\n\r\n"))[2])
            assert metadata["name"] == "tierline"
            assert metadata["compiled"] is is_compiled()

    asyncio.run(scenario())


class Parsed:
    """What httptools makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.messages = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.keeps_alive = parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


NAMES = [
    "host",
    "Content-Length",
    "X-A",
    "transfer-encoding",
    "connection",
    "x y",
    "",
    "Expect",
    "te",
]
VALUES = [
    "a",
    "3",
    "03",
    "+3",
    "chunked",
    "close",
    " 3",
    "3 ",
    "",
    "a\tb",
    "é",
    "3\r\n folded",
    "5",
]


@settings(max_examples=600)
@given(
    lines=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5),
    colon=st.sampled_from([": ", ":", " : "]),
    end=st.sampled_from(["\r\n", "\n"]),
    body=st.sampled_from([b"", b"abc", b"abcde", b"abcPOST /v1/score HTTP/1.1\r\n"]),
)
def test_what_is_read_whole_is_exactly_what_the_full_parser_reads(
    lines: list[tuple[str, str]], colon: str, end: str, body: bytes
) -> None:
    head = [f"{name}{colon}{value}{end}" for name, value in lines]
    data = ("POST /v1/score HTTP/1.1\r\n" + "".join(head) + end).encode() + body
    found = read_head(data)
    if found is not None:
        parsed = Parsed(data)
        assert [*found.headers.items()] == parsed.headers
        assert data[found.end :] == parsed.body
        assert found.length == len(parsed.body)
        assert parsed.messages == 1
        assert parsed.keeps_alive


class Taking:
    """A transport that takes one request, written as the lean one writes it."""

    data = b""

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        standing = field_lines([("content-type", CONTENT_TYPE)])
        head = request_head(request, f"host: 127.0.0.1:8101\r\n{standing}")
        self.data = b"".join((head, *request.body))
        raise ConnectFailed("nobody is there")

    def close(self) -> None:
        """Nothing is open."""


def said_in(head: Head) -> Said:
    return said_by(read_headers(call_headers(head.headers), now=5.0))


def heard(said: Said) -> tuple[object, ...]:
    return said.deadline_at, said.request_id, said.traceparent, said.criticality


PRINTED = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)


@settings(max_examples=60)
@given(timeout=st.floats(0.0, 9e5), number=st.integers(1, 999), call_id=PRINTED)
def test_what_our_own_client_writes_is_read_by_one_expression_and_means_the_same(
    timeout: float, number: int, call_id: str
) -> None:
    transport = Taking()
    with pytest.raises(ConnectFailed):
        HttpChannel(transport).ask(Outgoing(a_request(1, 2), call_id, None), number, timeout)
    own, head = read_own(transport.data), read_head(transport.data)
    assert own is not None
    assert head is not None
    assert heard(own.said(5.0)) == heard(said_in(head))
    assert (own.length, own.end) == (head.length, head.end)
    assert own.end % BODY_ALIGNMENT == 0


@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_head_is_never_read_as_our_own_otherwise_than_in_full(
    cut: int, byte: int
) -> None:
    transport = Taking()
    with pytest.raises(ConnectFailed):
        HttpChannel(transport).ask(Outgoing(a_request(1, 2), "r-1", None), 1, 0.25)
    data = bytearray(transport.data)
    data[cut % len(data)] = byte
    own = read_own(bytes(data))
    if own is not None:
        head = read_head(bytes(data))
        assert head is not None
        assert heard(own.said(5.0)) == heard(said_in(head))


def test_our_own_clients_request_is_read_whole() -> None:
    frame = b"".join(encode_request(a_request(1, 2)))
    head = [
        f"{name}: {value}"
        for name, value in (
            ("host", "a"),
            ("x-tierline-deadline-ms", "80.000"),
            ("x-request-id", "r1"),
        )
    ]
    lines = "\r\n".join([*head, f"content-length: {len(frame)}"])
    data = f"POST /v1/score HTTP/1.1\r\n{lines}\r\n\r\n".encode() + frame
    found = read_head(data)
    assert found is not None
    assert data[found.end :] == frame

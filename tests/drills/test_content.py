"""Faults in what answers say, on real frames in HTTP answers cut at any byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.wire import ScoreReply, decode_reply, encode_reply
from tierline_drills.proxy.content import FAULTS, STALE, Answers, damaged

REPLY = ScoreReply(
    model="shop",
    bundle="1@0123456789ab",
    scores=np.array([3.0, 2.0, 1.0], np.float32),
    items=np.array([7, 8, 9], np.int64),
)


def answer(reply: ScoreReply = REPLY, status: int = 200, kind: str = "x-tierline") -> bytes:
    body = b"".join(bytes(part) for part in encode_reply(reply))
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/{kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reply_in(data: bytes) -> ScoreReply:
    head, _, body = data.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    return decode_reply(body)


@given(st.lists(st.integers(1, 60), max_size=8), st.sampled_from(FAULTS[:-2]))
def test_an_answer_cut_anywhere_is_damaged_whole(cuts: list[int], fault: str) -> None:
    data, answers, passed = answer() + answer(), Answers(), b""
    for cut in [*cuts, len(data)]:
        passed += answers.passed(data[:cut], fault)
        data = data[cut:]
    passed += answers.released()
    once = Answers().passed(answer(), fault)
    assert passed == once + once


def test_each_fault_says_what_it_is_called() -> None:
    assert np.isnan(damaged(REPLY, "nan").scores).any()
    assert np.isinf(damaged(REPLY, "infinite").scores).any()
    assert len(damaged(REPLY, "short").scores) == 2
    assert damaged(REPLY, "wrong").scores.tolist() == [1.5, 2.5, 3.5]
    assert damaged(REPLY, "stale").bundle == STALE


def test_a_wrong_answer_is_still_a_frame() -> None:
    changed = reply_in(Answers().passed(answer(), "wrong"))
    assert changed.scores.tolist() == [1.5, 2.5, 3.5]
    assert reply_in(Answers().passed(answer(), "stale")).bundle == STALE


def test_swapped_answers_come_back_to_the_wrong_caller() -> None:
    shelf: list[bytes] = []
    one, two = Answers(shelf), Answers(shelf)
    first = answer(REPLY._replace(bundle="1@aaaaaaaaaaaa"))
    second = answer(REPLY._replace(bundle="1@bbbbbbbbbbbb"))
    one.passed(first, "swapped")
    assert reply_in(two.passed(second, "swapped")).bundle == "1@aaaaaaaaaaaa"


@pytest.mark.parametrize(
    "data",
    [
        answer(status=503),
        answer(kind="json"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tierline\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_what_is_no_score_answer_passes_unchanged(data: bytes) -> None:
    assert Answers().passed(data, "nan") == data


@given(st.binary(max_size=400), st.sampled_from(FAULTS))
def test_any_bytes_come_out_whole_when_the_fault_is_over(data: bytes, fault: str) -> None:
    answers = Answers()
    passed = answers.passed(data, fault) + answers.released()
    assert passed == data

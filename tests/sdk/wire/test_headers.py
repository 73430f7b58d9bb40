"""The headers of an attempt: written by a client, read by a server that trusts nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline import Criticality
from tierline._exceptions import BadRequest
from tierline.deadline import Deadline
from tierline.wire import CONTENT_TYPE, CallHeaders, read_headers

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_is_written_is_read_in_the_readers_own_time() -> None:
    sent = CallHeaders(
        deadline=Deadline(10.5),
        attempt=2,
        request_id="r-1",
        traceparent=TRACE,
        criticality=Criticality.SHEDDABLE,
    )
    headers = dict(sent.write(10.25))
    assert headers["content-type"] == CONTENT_TYPE
    came = read_headers(headers, now=500.0)
    assert came.deadline == Deadline(500.25)
    assert (came.attempt, came.request_id, came.traceparent) == (2, "r-1", TRACE)
    assert came.criticality is Criticality.SHEDDABLE


def test_without_headers_there_is_no_deadline_and_it_is_the_first_attempt() -> None:
    assert read_headers({}, now=0.0) == CallHeaders()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-tierline-deadline-ms", "soon"),
        ("x-tierline-deadline-ms", "nan"),
        ("x-tierline-deadline-ms", "inf"),
        ("x-tierline-deadline-ms", "-1"),
        ("x-tierline-deadline-ms", "1e9"),
        ("x-tierline-deadline-ms", "9" * 30),
        ("x-tierline-attempt", "0"),
        ("x-tierline-attempt", "1001"),
        ("x-tierline-attempt", "two"),
        ("x-tierline-attempt", "٣"),
        ("x-request-id", ""),
        ("x-request-id", "a b"),
        ("x-request-id", "a\nb"),
        ("x-request-id", "é"),
        ("x-request-id", "x" * 129),
        ("x-tierline-criticality", "Critical"),
        ("x-tierline-criticality", ""),
    ],
)
def test_a_malformed_header_is_a_bad_request_that_names_it(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=name):
        read_headers({name: value}, now=0.0)


@pytest.mark.parametrize("value", ["", "junk", TRACE.upper(), "ff" + TRACE[2:], TRACE + "-x"])
def test_a_malformed_traceparent_is_dropped(value: str) -> None:
    assert read_headers({"traceparent": value}, now=0.0).traceparent is None


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "x-tierline-deadline-ms",
                "x-tierline-attempt",
                "x-tierline-criticality",
                "x-request-id",
                "traceparent",
            ]
        ),
        st.text(max_size=60),
    )
)
def test_any_header_is_read_or_a_bad_request(headers: dict[str, str]) -> None:
    try:
        came = read_headers(headers, now=0.0)
    except BadRequest:
        return
    assert came.attempt >= 1

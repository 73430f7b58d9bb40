"""Field rules: what each action leaves of a field, which rules are refused, what an answer says."""

from __future__ import annotations

import random
from typing import Any, Literal
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import tierline
from tierline import FieldRule, Sovereignty
from tierline._channels import Outgoing
from tierline._config import ClientConfig, Endpoint, Mode, Tier
from tierline._core.call import ScoreCall
from tierline._core.commands import Finish, StartAttempt
from tierline._core.fleet import Fleet
from tierline._core.sovereignty import FieldGate, View, gate_for, view, withheld
from tierline._transports import MockTransport, WireRequest, WireResponse
from tierline.wire import ScoreReply, ScoreRequest, encode_reply

PUBLIC = Tier(
    name="public",
    kind="cloud",
    trust="public",
    region="us",
    endpoints=(Endpoint(url="http://p:1"),),
)
EDGE = Tier(name="edge", kind="edge", region="eu", endpoints=(Endpoint(url="http://e:1"),))
REQUEST = ScoreRequest(
    model="m",
    query={"history": np.arange(1, 9), "user": np.array([42]), "age": np.array([37.5])},
    candidates={"id": np.array([7, 8, 9]), "price": np.array([1.5, 20.25, 3.0], np.float32)},
)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


Default = Literal["allow", "drop", "forbid"]


def policy(*rules: FieldRule, default: Default = "allow", secret: bytes = b"k" * 16) -> Sovereignty:
    return Sovereignty(fields=rules, default=default, secret=secret)


def seen(*rules: FieldRule, tier: Tier = PUBLIC, request: ScoreRequest = REQUEST) -> View:
    shown = view(request, [policy(*rules)], tier)
    assert shown is not None
    return shown


def rule(name: str, action: str, **more: object) -> FieldRule:
    return FieldRule(name=name, action=action, **more)  # type: ignore[arg-type]


# -- what each action does ---------------------------------------------------------------------


def test_a_dropped_field_is_not_in_the_view_and_is_named_as_reduced() -> None:
    shown = seen(rule("user", "drop"), rule("candidates.price", "drop"))
    assert set(shown.request.query) == {"history", "age"}
    assert set(shown.request.candidates or ()) == {"id"}
    assert shown.reduced == ("query.user", "candidates.price")


def test_a_rule_for_another_trust_or_region_changes_nothing() -> None:
    elsewhere = (rule("user", "drop", trust="private"), rule("user", "forbid", regions=("eu",)))
    assert seen(*elsewhere).request is REQUEST


def test_the_first_rule_that_speaks_of_a_field_decides() -> None:
    rules = (rule("user", "allow", regions=("us",)), rule("query.*", "drop", trust="public"))
    assert set(seen(*rules).request.query) == {"user"}
    assert set(seen(*rules, tier=EDGE).request.query) == {"history", "user", "age"}


def test_a_hash_keeps_equal_elements_equal_and_hides_which_they_are() -> None:
    request = ScoreRequest(model="m", query={"user": np.array([5, 5, 6, -1], np.int32)})
    first = seen(rule("user", "hash"), request=request).request.query["user"]
    wide = request._replace(query={"user": request.query["user"].astype(np.int64)})
    again = seen(rule("user", "hash"), request=wide).request.query["user"]
    assert first.dtype == np.int32
    assert first[0] == first[1] != first[2]
    assert not set(first.tolist()) & {5, 6, -1}
    assert len(set(again.tolist())) == 3
    other = view(request, [policy(rule("user", "hash"), secret=b"another secret!!")], PUBLIC)
    assert other is not None
    assert not np.array_equal(other.request.query["user"], first)


@pytest.mark.parametrize(
    ("values", "buckets", "hidden"),
    [
        (
            np.array([1, 2, 1]),
            None,
            [3536218965674716074, 518008173648131809, 3536218965674716074],
        ),
        (np.array([1, 2, 1], np.int16), None, [21572, 30400, 21572]),
        (np.array([1, 2, 1]), 1000, [590, 624, 590]),
        (np.array([0.5, -2.25]), None, [0.06719374722750089, 0.28489303732748844]),
    ],
    ids=["integers", "within their type", "buckets", "floats"],
)
def test_pseudonyms_are_the_same_in_every_version(
    values: NDArray[Any], buckets: int | None, hidden: list[float]
) -> None:
    """What a partner has stored under a pseudonym must be found again after an upgrade."""
    request = ScoreRequest(model="m", query={"user": values})
    assert _flat(seen(rule("user", "hash", buckets=buckets), request=request)) == hidden


@pytest.mark.parametrize(
    ("length", "hidden"), [(64, 8403330139698538652), (65, 3444877188471871696)]
)
def test_a_secret_of_any_length_hides(length: int, hidden: int) -> None:
    request = ScoreRequest(model="m", query={"user": np.array([1])})
    shown = view(request, [policy(rule("user", "hash"), secret=b"k" * length)], PUBLIC)
    assert shown is not None
    assert _flat(shown) == [hidden]


def test_hidden_headers_are_the_same_in_every_version() -> None:
    rules = (rule("call.id", "hash"), rule("call.traceparent", "hash"))
    assert seen(*rules).headers("0123456789abcdef", TRACE) == (
        "cc9df7d5aaff848e",
        "00-35ad596110d03006cdfb779f40fbbb58-7293167556699152-00",
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
def test_single_bytes_cannot_be_hashed(dtype: type[np.generic]) -> None:
    request = ScoreRequest(model="m", query={"user": np.array([1], dtype)})
    assert view(request, [policy(rule("user", "hash"))], PUBLIC) is None


def test_a_view_of_a_tier_that_must_not_be_asked_is_not_permitted() -> None:
    gate = gate_for(policy(rule("user", "forbid", trust="public")), None, REQUEST)
    assert gate is not None
    assert not gate.asks(PUBLIC)
    with pytest.raises(tierline.NotPermitted, match="'public'"):
        gate.view(PUBLIC)
    assert gate.view(EDGE).request is REQUEST


def test_what_an_endpoint_said_is_withheld_but_not_how_long_to_wait() -> None:
    busy = tierline.Overloaded("user 42 asks too much")
    busy.retry_after = 0.5
    hidden = withheld(busy)
    assert isinstance(hidden, tierline.Overloaded)
    assert hidden.retry_after == 0.5
    assert "42" not in str(hidden)
    ours = tierline.ConnectFailed("refused")
    assert withheld(ours) is ours


@given(values=arrays(np.int64, st.integers(0, 20)), buckets=st.integers(1, 1000))
def test_bucketed_hashes_are_item_ids_of_a_table_of_that_size(
    values: NDArray[np.int64], buckets: int
) -> None:
    request = ScoreRequest(model="m", query={"user": values})
    hidden = _flat(seen(rule("user", "hash", buckets=buckets), request=request))
    assert all(1 <= pseudonym <= buckets for pseudonym in hidden)


floats = st.sampled_from([np.float16, np.float32, np.float64])


@given(data=st.data(), dtype=floats, step=st.sampled_from([0.1, 1.0, 1000.0]))
def test_a_hashed_float_lies_between_zero_and_one(
    data: st.DataObject, dtype: type[np.floating], step: float
) -> None:
    values = data.draw(arrays(dtype, 5))
    request = ScoreRequest(model="m", query={"age": values})
    hidden = _flat(seen(rule("age", "hash"), request=request))
    assert all(0 <= pseudonym <= 1 for pseudonym in hidden)
    lower = np.asarray(
        seen(rule("age", "generalise", step=step), request=request).request.query["age"]
    )
    assert lower.dtype == dtype
    finite = np.isfinite(values)
    assert np.isfinite(lower[finite]).all()
    assert np.array_equal(lower[~finite], values[~finite], equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_float_goes_down_to_the_edge_of_its_bucket(dtype: type[np.floating]) -> None:
    values = np.array([37.5, 40.0, 49.75, -0.5, -10.0, -10.25, 0.0], dtype)
    request = ScoreRequest(model="m", query={"age": values})
    tens = seen(rule("age", "generalise", step=10.0), request=request)
    assert _flat(tens) == [30.0, 40.0, 40.0, -10.0, -10.0, -20.0, 0.0]
    halves = seen(rule("age", "generalise", step=0.5), request=request)
    assert _flat(halves) == [37.5, 40.0, 49.5, -0.5, -10.0, -10.5, 0.0]


def test_two_zeros_have_one_pseudonym() -> None:
    request = ScoreRequest(model="m", query={"age": np.array([0.0])})
    negative = request._replace(query={"age": np.array([-0.0])})
    hidden = [_flat(seen(rule("age", "hash"), request=one)) for one in (request, negative)]
    assert hidden[0] == hidden[1]


integers = st.sampled_from([np.int8, np.int16, np.int64, np.uint8, np.uint64])


@given(data=st.data(), dtype=integers, step=st.sampled_from([2, 10, 100, 1000, 2**40]))
def test_an_integer_goes_down_to_the_edge_of_its_bucket_within_its_type(
    data: st.DataObject, dtype: type[np.integer], step: int
) -> None:
    values = data.draw(arrays(dtype, st.sampled_from([(), (4,), (2, 3)])))
    request = ScoreRequest(model="m", query={"age": values})
    shown = seen(rule("age", "generalise", step=float(step)), request=request)
    lowest = int(np.iinfo(dtype).min)
    for value, lower in zip(values.ravel().tolist(), _flat(shown), strict=True):
        assert lower == max(lowest, value // step * step)


def _flat(shown: View) -> list[Any]:  # Any: the elements of whichever dtype the field has
    [array] = shown.request.query.values()
    flat: list[Any] = array.ravel().tolist()
    return flat


def test_the_last_entries_of_a_history_are_kept_in_order() -> None:
    shown = seen(rule("history", "generalise", last=3))
    assert shown.request.query["history"].tolist() == [6, 7, 8]
    short = seen(rule("history", "generalise", last=8))
    assert short.request is REQUEST
    assert short.reduced == ()


@pytest.mark.parametrize(
    ("given_rule", "field"),
    [
        (rule("flag", "hash"), np.array([True])),
        (rule("flag", "hash"), np.array([1], np.uint8)),
        (rule("flag", "hash", buckets=5), np.array([0.5])),
        (rule("flag", "generalise", step=2.0), np.array([True])),
        (rule("flag", "generalise", step=0.5), np.array([3])),
        (rule("flag", "generalise", last=1), np.array(3)),
        (rule("flag", "forbid"), np.array([3])),
    ],
)
def test_what_a_rule_cannot_do_to_a_field_keeps_the_tier_from_being_asked(
    given_rule: FieldRule, field: NDArray[np.generic]
) -> None:
    request = ScoreRequest(model="m", query={"flag": field})
    assert view(request, [policy(given_rule)], PUBLIC) is None


def test_a_tier_that_would_see_no_candidate_is_not_asked() -> None:
    assert view(REQUEST, [policy(rule("candidates.*", "drop"))], PUBLIC) is None


def test_two_policies_are_both_kept_and_the_strictest_forbids() -> None:
    of_client = policy(rule("history", "generalise", last=4))
    of_call = policy(rule("history", "generalise", step=2.0), rule("user", "drop"))
    shown = view(REQUEST, [of_client, of_call], PUBLIC)
    assert shown is not None
    assert shown.request.query["history"].tolist() == [4, 6, 6, 8]
    assert "user" not in shown.request.query
    dropped, forbidden = policy(rule("user", "drop")), policy(rule("user", "forbid"))
    assert view(REQUEST, [dropped, forbidden], PUBLIC) is None


def test_headers_are_hidden_by_tier_and_kept_where_nothing_is_said() -> None:
    rules = (rule("call.id", "hash"), rule("call.traceparent", "hash"))
    there = seen(*rules).headers("0123456789abcdef", TRACE)
    here = seen(*rules, tier=EDGE).headers("0123456789abcdef", TRACE)
    assert len({*there, *here, "0123456789abcdef", TRACE}) == 6
    assert (
        tierline.wire.read_headers(
            {"traceparent": there[1] or "", "x-request-id": there[0]}, now=0.0
        ).traceparent
        == there[1]
    )
    assert seen().headers("0123456789abcdef", TRACE) == ("0123456789abcdef", TRACE)
    strict = view(REQUEST, [policy(rule("*", "allow"), default="drop")], PUBLIC)
    assert strict is not None
    assert strict.headers("0123456789abcdef", TRACE) == ("0123456789abcdef", None)


def begin(
    given_policy: Sovereignty, mode: Mode = Mode.SEQUENTIAL
) -> tuple[ScoreCall, StartAttempt]:
    fleet = Fleet(ClientConfig(tiers=(EDGE, PUBLIC), sovereignty=given_policy))
    call = ScoreCall(
        REQUEST, fleet, deadline=1.0, mode=mode, key=None, call_id="c", dice=random.Random(1)
    )
    commands = call.begin(0.0)
    [start] = [command for command in commands if isinstance(command, StartAttempt)]
    return call, start


def reply(uncertainty: float) -> ScoreReply:
    scores = np.zeros(3, np.float32)
    return ScoreReply("m", "b@1", scores, uncertainty=uncertainty, threshold=0.5)


def test_a_tier_the_request_may_not_reach_is_no_tier_of_the_call() -> None:
    call, start = begin(policy(rule("user", "forbid", trust="public")))
    [finish] = call.attempt_succeeded(start.number, reply(0.9), 0.01)
    assert isinstance(finish, Finish)
    assert finish.answer is not None
    assert (finish.answer.tier, finish.answer.reason) == ("edge", "no_cloud")


def test_an_answer_from_a_reduced_view_says_so_and_names_the_fields() -> None:
    call, edge = begin(policy(rule("user", "drop", trust="public")))
    [cloud] = call.attempt_succeeded(edge.number, reply(0.9), 0.01)
    assert isinstance(cloud, StartAttempt)
    assert cloud.view is not None
    [finish] = call.attempt_succeeded(cloud.number, reply(0.1), 0.02)
    assert isinstance(finish, Finish)
    assert finish.answer is not None
    assert finish.answer.reason == "escalated; reduced_view"
    assert [a.reduced for a in finish.answer.attempts] == [(), ("query.user",)]


def test_no_rules_cost_no_view() -> None:
    assert gate_for(Sovereignty(), Sovereignty(trust="private"), REQUEST) is None
    assert begin(Sovereignty())[1].view is None


def test_a_view_is_made_and_encoded_once_a_call_and_tier() -> None:
    gate = FieldGate([policy(rule("user", "drop", trust="public"))], REQUEST)
    outgoing = Outgoing(REQUEST, "id", None)
    assert gate.view(PUBLIC) is gate.view(PUBLIC)
    shown = outgoing.seen_as(gate.view(PUBLIC))
    assert shown is outgoing.seen_as(gate.view(PUBLIC))
    assert shown.frame is outgoing.seen_as(gate.view(PUBLIC)).frame
    assert outgoing.seen_as(gate.view(EDGE)) is outgoing  # sees all of it: shares the frame


def test_a_view_does_not_print_what_it_holds() -> None:
    shown = seen(rule("user", "drop"))
    assert repr(shown) == "<View of 'm' without query.user>"


def test_an_answer_to_a_hashed_request_id_is_taken_for_ours() -> None:
    ids: list[str] = []

    def answer(request: WireRequest) -> WireResponse:
        ids.append(dict(request.headers)["x-request-id"])
        frame = b"".join(bytes(part) for part in encode_reply(reply(0.1)))
        return WireResponse(200, {"x-request-id": ids[-1]}, frame)

    hashed = policy(rule("call.id", "hash"))
    with (
        mock.patch("tierline._channels.open_transport", return_value=MockTransport(answer)),
        tierline.Client(edge=["http://e:1"], sovereignty=hashed) as client,
    ):
        given = client.score("m", query={"user": [1]}, candidates=[7, 8, 9])
    assert given.tier == "edge"
    assert len(ids[0]) == 16

"""A fleet whose every byte is recorded, and what a policy lets each of its tiers see of a request.

The judgement here is written anew from the documentation, not taken from the code under test.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline import ConnectFailed, FieldRule, RemoteProtocolError, Sovereignty
from tierline._config import Endpoint, Tier
from tierline._exceptions import AttemptTimedOut
from tierline._transports.base import WireRequest, WireResponse
from tierline.wire import (
    ErrorReply,
    ScoreReply,
    decode_request,
    encode_error,
    encode_reply,
)

REGIONS = ("eu", "us")
FIELDS = {"query": ("user", "history", "price"), "candidates": ("id", "rate")}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STEPS = ("sure", "unsure", "echo", "refused", "timed out", "hung up", "overloaded", "slow")
TIERS = tuple(
    Tier(
        name=f"{kind}-{trust}-{region}",
        kind=kind,
        region=region,
        trust=trust,
        endpoints=tuple(Endpoint(url=f"http://{kind}-{trust}-{region}-{i}:1") for i in (1, 2)),
    )
    for kind, trust in (("edge", "private"), ("cloud", "private"), ("cloud", "public"))
    for region in REGIONS
)
TIER_OF = {endpoint.url: tier for tier in TIERS for endpoint in tier.endpoints}

Arrays = dict[str, NDArray[np.generic]]
names = st.sampled_from(
    [f"{space}.{name}" for space, all_names in FIELDS.items() for name in all_names]
    + ["user", "history", "id", "*", "query.*", "candidates.*"]
)
scopes = {
    "trust": st.sampled_from([None, "private", "public"]),
    "regions": st.sampled_from([None, ("eu",), ("us",)]),
}
rules = st.one_of(
    st.builds(
        FieldRule, name=names, action=st.sampled_from(["allow", "drop", "hash", "forbid"]), **scopes
    ),
    st.builds(
        FieldRule,
        name=names.filter(lambda name: not name.startswith("candidates.")),
        action=st.just("generalise"),
        last=st.integers(1, 3),
        **scopes,
    ),
    st.builds(FieldRule, name=names, action=st.just("generalise"), step=st.just(1000.0), **scopes),
    st.builds(
        FieldRule,
        name=st.just("call.traceparent"),
        action=st.sampled_from(["allow", "drop", "hash"]),
        **scopes,
    ),
    st.builds(FieldRule, name=st.just("call.id"), action=st.just("hash"), **scopes),
)


@st.composite
def policies(draw: st.DrawFn) -> Sovereignty:
    """A policy none of whose rules hides a later one."""
    kept: list[FieldRule] = []
    for rule in draw(st.lists(rules, min_size=1, max_size=5)):
        if not any(earlier.hides(rule) for earlier in kept):
            kept.append(rule)
    return Sovereignty(
        trust=draw(st.sampled_from(["private", "public"])),
        fields=tuple(kept),
        default=draw(st.sampled_from(["allow", "drop", "forbid"])),
        secret=b"a secret of the test",
    )


def a_request(seed: int) -> tuple[Arrays, Arrays]:
    """Query and candidates whose every value occurs nowhere else: a value is its own marker."""
    rng = np.random.default_rng(seed)

    def whole(n: int) -> NDArray[np.int64]:
        return rng.integers(2**40, 2**50, n) * 1000 + 7  # never a multiple of the step

    def broken(n: int) -> NDArray[np.float64]:
        return rng.uniform(1e4, 1e6, n)

    query: Arrays = {"user": whole(1), "history": whole(5), "price": broken(2)}
    return query, {"id": whole(3), "rate": broken(3)}


@dataclass
class Recorder:
    """Answers for every endpoint as its seed says, and keeps each byte it was sent."""

    seed: int
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)

    def handle(self, url: str, request: WireRequest) -> WireResponse:
        head = " ".join([request.method, request.path, *map(str, request.headers)])
        body = b"".join(bytes(part) for part in request.body)
        self.sent.append((url, head.encode() + b"\n" + body))
        step = self.dice.choice(STEPS)
        if request.method == "GET":
            return WireResponse(404, body=_frame(encode_error(_error("model_not_found", body))))
        match step:
            case "refused":
                raise ConnectFailed(f"{url} refused")
            case "timed out" | "slow":
                raise AttemptTimedOut("late")
            case "hung up":
                raise RemoteProtocolError("hung up")
            case "echo":
                return WireResponse(400, body=_frame(encode_error(_error("bad_request", body))))
            case "overloaded":
                return WireResponse(503, body=_frame(encode_error(_error("overloaded", body))))
            case _:
                return WireResponse(200, body=_frame(encode_reply(_reply(step))))


def _reply(step: str) -> ScoreReply:
    doubt = 0.9 if step == "unsure" else 0.1
    return ScoreReply("m", "b@1", np.zeros(3, np.float32), uncertainty=doubt, threshold=0.5)


def _error(code: str, body: bytes) -> ErrorReply:
    """An error whose words repeat everything that was sent."""
    if not body:
        return ErrorReply(code=code, message="no such model")
    request = decode_request(body)
    seen = [*request.query.values(), *(request.candidates or {}).values()]
    return ErrorReply(code=code, message=f"cannot take {[array.tolist() for array in seen]}")


def _frame(parts: object) -> bytes:
    assert isinstance(parts, list)
    return b"".join(bytes(part) for part in parts)


class RecordedTransport:
    """Carries nothing anywhere."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.url, self.recorder = url, recorder

    def send(self, request: WireRequest, *, timeout: float) -> WireResponse:
        return self.recorder.handle(self.url, request)

    def close(self) -> None:
        pass


class AsyncRecordedTransport(RecordedTransport):
    """The twin: what hangs is slow in the loop's own (virtual) time, so that hedges start."""

    async def send(self, request: WireRequest, *, timeout: float) -> WireResponse:  # type: ignore[override]
        try:
            return self.recorder.handle(self.url, request)
        finally:
            await asyncio.sleep(min(timeout, self.recorder.dice.choice((0.0, 0.004))))

    async def aclose(self) -> None:
        pass


Judgement = Callable[[NDArray[np.generic]], list[bool]]  # which elements may not be seen


def hidden_from(tier: Tier, given: Sovereignty, space: str, name: str) -> str | FieldRule:
    """What the documentation says becomes of a field: the first rule that speaks of it, or the
    default."""
    spoken_of = {name, "*", f"{space}.{name}", f"{space}.*"}
    for rule in given.fields:
        of_tier = rule.trust in (None, tier.trust)
        if of_tier and tier.region in (rule.regions or REGIONS) and rule.name in spoken_of:
            return rule
    return given.default or "allow"


def markers(
    tier: Tier, given: list[Sovereignty], spaces: Mapping[str, Arrays]
) -> Iterator[bytes | None]:
    """The bytes the tier must never be sent; None when it must not be asked at all."""
    for space, arrays in spaces.items():
        for name, array in arrays.items():
            for policy in given:
                word = hidden_from(tier, policy, space, name)
                action = word if isinstance(word, str) else word.action
                if action == "forbid" or not policy.permits(tier):
                    yield None
                elif isinstance(word, FieldRule) and word.last is not None:
                    yield from map(_bytes, array[: -word.last])
                elif action != "allow":
                    yield from map(_bytes, array)


def _bytes(value: np.generic) -> bytes:
    return np.asarray(value).tobytes()


class Listener(logging.Handler):
    """Everything that anybody logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {vars(record)}")


def channels_of(recorder: Recorder, twin: type[RecordedTransport]) -> Callable[..., object]:
    """What to open instead of a connection."""
    return lambda url, **_: twin(url, recorder)

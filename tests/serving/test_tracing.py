"""A score call becomes one span in its caller's trace, made when it ended."""

from __future__ import annotations

import pytest

trace = pytest.importorskip("opentelemetry.trace")

from tierline_serving.tracing import NAME, Tracing  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept(trace.NonRecordingSpan):  # type: ignore[misc, name-defined]
    """A span that keeps what it was told."""

    def __init__(self, **told: object) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.told = told

    def set_status(self, status: object, description: str | None = None) -> None:
        self.told["status"] = status

    def end(self, end_time: int | None = None) -> None:
        self.told["end"] = end_time


class Keeper:
    """A tracer that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[Kept] = []

    def start_span(
        self, name: str, context: object, kind: object, attributes: object, start_time: int
    ) -> Kept:
        parent = trace.get_current_span(context).get_span_context()
        span = Kept(name=name, parent=parent, kind=kind, attributes=attributes, start=start_time)
        self.spans.append(span)
        return span


def test_a_span_has_the_callers_trace_and_the_calls_times() -> None:
    keeper = Keeper()
    tracing = Tracing(keeper, wall=lambda: 5_000_000_000)  # type: ignore[arg-type]
    tracing.ended(PARENT, 0.25, {"tierline.code": "ok", "tierline.model": "ranker"})
    [span] = keeper.spans
    assert (span.told["name"], span.told["start"], span.told["end"]) == (
        NAME,
        4_750_000_000,
        5_000_000_000,
    )
    parent = span.told["parent"]
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" in PARENT  # type: ignore[attr-defined]
    assert "status" not in span.told


def test_a_failed_call_without_a_caller_to_join_is_a_failed_span_of_its_own() -> None:
    keeper = Keeper()
    Tracing(keeper).ended(None, 0.1, {"tierline.code": "overloaded"})  # type: ignore[arg-type]
    [span] = keeper.spans
    assert not span.told["parent"].is_valid  # type: ignore[attr-defined]
    assert span.told["status"] is not None


def test_nothing_is_traced_where_nobody_set_a_provider() -> None:
    assert Tracing.find() is None

"""OpenTelemetry spans of score calls, joined to the caller's trace; nothing without a provider.

A span is made when its call has ended, from what is known then: while it runs it costs nothing. To
have spans, run the node under a process that sets a tracer provider (``opentelemetry-instrument``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

NAME: Final = "tierline.score"


def attributes(
    code: str, reason: str | None, queue: float | None, request_id: str | None
) -> dict[str, str | float]:
    """What a span says of how its call ended; ``queue`` in seconds."""
    about: dict[str, str | float] = {"tierline.code": code, "tierline.queue": queue or 0.0}
    if reason is not None:
        about["tierline.reason"] = reason
    if request_id is not None:
        about["tierline.request_id"] = request_id
    return about


class Tracing:
    """Makes the spans. ``wall`` tells UTC nanoseconds."""

    def __init__(self, tracer: Tracer, *, wall: Callable[[], int] = time.time_ns) -> None:
        self._tracer = tracer
        self._wall = wall

    @classmethod
    def find(cls) -> Tracing | None:
        """With the process's tracer provider; None when nobody set one, or there is no
        OpenTelemetry (extra ``otel``)."""
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return None
        return cls(provider.get_tracer("tierline.serving"))

    def ended(
        self, traceparent: str | None, seconds: float, attributes: Mapping[str, str | float]
    ) -> None:
        """A call that lasted so long ends now; its caller's span is the parent, if he named one."""
        from opentelemetry import trace
        from opentelemetry.trace.status import StatusCode

        context = None
        if traceparent is not None:  # its form was checked where it was read
            _, trace_id, span_id, flags = traceparent.split("-")
            parent = trace.SpanContext(
                int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        end = self._wall()
        span = self._tracer.start_span(
            NAME,
            context,
            trace.SpanKind.SERVER,
            attributes,
            start_time=end - round(seconds * 1e9),
        )
        if attributes.get("tierline.code") != "ok":
            span.set_status(StatusCode.ERROR)
        span.end(end)

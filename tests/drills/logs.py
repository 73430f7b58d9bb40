"""Logs made up by hand, whose figures are known."""

from __future__ import annotations

from tierline_drills.records import EXPERIMENT, Belief, Call, Drill, Event, Log, Tried

DRILL = Drill(
    id="crash",
    title="One of three edge nodes dies",
    rate=20.0,
    deadline=0.1,
    endpoints={"edge-1": "edge", "edge-2": "edge", "cloud-1": "cloud"},
)


def call(
    number: int,
    due: float,
    *,
    latency: float = 0.01,
    endpoint: str = "edge-2",
    group: str = EXPERIMENT,
    client: int = 0,
    quality: str = "edge",
    error: str = "",
    wrong: str = "",
    attempts: tuple[Tried, ...] | None = None,
) -> Call:
    """A call that went to one endpoint unless its attempts are given."""
    ended = due + latency
    one = Tried(1, "first", "edge", endpoint, due, ended, "ok")
    return Call(
        group,
        client,
        number,
        due,
        ended,
        tier="" if error else "edge",
        quality="" if error else quality,
        reason="" if error else "edge_answer",
        bundle="1@abc",
        error=error,
        wrong=wrong,
        gain=0.5,
        full_gain=0.6,
        attempts=(one,) if attempts is None else attempts,
    )


def crash(*, failed: int = 0, rate: float = 20.0, seconds: float = 30.0) -> Log:
    """Edge-1 dies at 10 s, a client notices at 10.2 s, it is back at 15 s and trusted at 16 s.

    The call at 10 s is retried; the ``failed`` calls after it end in an error.
    """
    log = Log(DRILL)
    for i in range(int(rate * seconds)):
        due = i / rate
        if due == 10.0:
            tried = (
                Tried(1, "first", "edge", "edge-1", due, due + 0.005, "connect_failed"),
                Tried(2, "failover", "edge", "edge-2", due + 0.005, due + 0.015, "ok"),
            )
            log.calls.append(call(i, due, latency=0.015, attempts=tried))
        elif 10.0 < due <= 10.0 + failed / rate:
            log.calls.append(call(i, due, error="Unavailable: nobody answered"))
        else:
            log.calls.append(call(i, due, endpoint=f"edge-{1 + i % 2}" if due < 10 else "edge-2"))
    log.events += [
        Event(10.0, "inject", "kill edge-1", ("edge-1",)),
        Event(15.0, "clear", "start edge-1", ("edge-1",)),
    ]
    log.beliefs += [
        Belief(EXPERIMENT, 0, 10.2, "edge-1", "open", False),
        Belief(EXPERIMENT, 0, 16.0, "edge-1", "closed", False),
    ]
    return log.sort()

"""Alerts: which fire, that they fire once, and what a real receiver gets."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import logs
import pytest

from tierline import ConfigurationError
from tierline_drills.alerts import Alert, Observed, Receiver, Rules, body_for, deliver
from tierline_drills.alerts.shapes import WECOM_LIMIT
from tierline_drills.records import Call, Tried
from tierline_drills.responses import Desk, Response

WHEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ALERT = Alert(name="NodeDown", summary="edge-1 has ended", endpoints=("edge-1",))
TIERS = {"edge-1": "edge", "edge-2": "edge", "cloud-1": "cloud"}


def rules() -> Rules:
    return Rules(slo=0.999, deadline=0.1, tiers=TIERS)


def failing(number: int, at: float, endpoint: str, outcome: str = "timed_out") -> Call:
    tried = (
        Tried(1, "first", "edge", endpoint, at, at + 0.01, outcome),
        Tried(2, "retry", "edge", "edge-2", at + 0.01, at + 0.02, "ok"),
    )
    return logs.call(number, at, latency=0.02, attempts=tried)


def names(alerts: list[Alert]) -> list[str]:
    return [alert.name for alert in alerts]


def test_an_endpoint_that_fails_is_told_once() -> None:
    watch = rules()
    calls = [failing(i, 1 + i * 0.01, "edge-1") for i in range(5)]
    assert names(watch.look(1.2, calls, Observed())) == ["EndpointFailing"]
    assert watch.look(1.3, [failing(9, 1.25, "edge-1")], Observed()) == []


def test_calls_that_have_left_the_window_count_no_more() -> None:
    watch = rules()
    four = [failing(i, 1 + i * 0.01, "edge-1") for i in range(4)]
    wrong = [failing(i, 1.1, "edge-2", "model_failed") for i in range(4, 6)]
    bad = [logs.call(9, 1.1, error="Unavailable: x", attempts=())]
    serving = Observed(serving={"edge-2": "v2@b"})
    assert watch.look(1.2, four + wrong + bad, serving) == []
    later = [failing(i, 5.0, "edge-1") for i in range(10, 14)]
    later += [failing(i, 5.0, "edge-2", "model_failed") for i in range(14, 16)]
    later += [logs.call(19, 5.0, error="Unavailable: x", attempts=())]
    assert watch.look(5.2, later, serving) == []
    fifth = [failing(20, 5.1, "edge-1"), failing(21, 5.1, "edge-2", "model_failed")]
    fifth += [logs.call(22, 5.1, error="Unavailable: x", attempts=())]
    told = names(watch.look(5.3, fifth, serving))
    assert told == ["EndpointFailing", "ErrorBudgetBurning", "BundleFailing"]


def test_an_alert_repeats_only_after_its_time_and_is_resolved_when_quiet() -> None:
    watch = Rules(slo=0.999, deadline=0.1, tiers=TIERS, repeat=100.0, quiet=10.0)
    down = Observed(ended=("edge-1",))
    told = {t: watch.look(float(t), [], down) for t in range(0, 201, 5)}
    assert [t for t, alerts in told.items() if alerts] == [0, 100, 200]
    assert watch.look(205.0, [], Observed()) == []
    (over,) = watch.look(211.0, [], Observed())
    assert (over.status, over.name) == ("resolved", "NodeDown")
    (again,) = watch.look(212.0, [], down)
    assert again.status == "firing"


def test_a_tier_is_lost_when_nothing_of_it_answers() -> None:
    cloud = [
        logs.call(i, 1.0, attempts=(Tried(1, "first", "cloud", "cloud-1", 1.0, 1.1, "timed_out"),))
        for i in range(5)
    ]
    assert "TierLost" in names(rules().look(1.2, cloud, Observed()))


def test_wrong_answers_blame_the_bundle_their_nodes_serve() -> None:
    serving = {"edge-1": "v2@b", "edge-3": "v2@b", "edge-2": "v1@a"}
    calls = [failing(i, 1.0, "edge-1", "model_failed") for i in range(3)]
    (alert,) = rules().look(1.2, calls, Observed(serving=serving))
    assert (alert.name, alert.endpoints) == ("BundleFailing", ("edge-1", "edge-3"))


def test_a_burning_budget_pages() -> None:
    bad = [logs.call(i, 1.0, error="Unavailable: x", attempts=()) for i in range(3)]
    assert names(rules().look(1.2, bad, Observed())) == ["ErrorBudgetBurning"]


def test_calm_traffic_alerts_nobody() -> None:
    calm = [logs.call(i, 1.0 + i * 0.01) for i in range(100)]
    assert rules().look(2.2, calm, Observed()) == []


def test_each_alert_has_its_response_and_a_response_is_not_hurried() -> None:
    desk = Desk()
    assert desk.decide(ALERT, 0.0) is Response.RESTART
    assert desk.decide(ALERT, 1.0) is None
    assert desk.decide(ALERT, 6.0) is Response.RESTART
    lost = Alert(name="RegistryDamaged", summary="x")
    assert desk.decide(lost, 0.0) is Response.RESTORE
    assert Desk(allowed=frozenset()).decide(lost, 0.0) is None


def test_a_resolved_alert_asks_for_nothing() -> None:
    assert Desk().decide(Alert(name="NodeDown", summary="x", status="resolved"), 0.0) is None


def test_the_generic_body_is_alertmanagers() -> None:
    body = body_for("generic", [ALERT], WHEN)
    assert (body["version"], body["status"]) == ("4", "firing")
    (one,) = body["alerts"]
    assert one["labels"] == {"alertname": "NodeDown", "severity": "page", "endpoint": "edge-1"}
    assert one["annotations"] == {"summary": "edge-1 has ended"}
    assert one["startsAt"].startswith("2026-11-21T12:00:00")


def test_slack_and_wecom_get_what_they_show() -> None:
    message = body_for("slack", [ALERT], WHEN)
    assert message["text"] == "Tierline: 1 firing"
    assert message["attachments"][0]["color"] == "danger"
    robot = body_for("wecom", [ALERT] * 200, WHEN)
    assert robot["msgtype"] == "markdown"
    assert len(robot["markdown"]["content"].encode()) <= WECOM_LIMIT


@contextmanager
def receiver(*statuses: int) -> Iterator[tuple[str, list[Any]]]:
    """A local receiver that answers with these codes in turn, and what it received."""
    received: list[Any] = []
    turns = iter(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(next(turns))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?token=secret", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("shape", ["generic", "slack", "wecom"])
def test_a_receiver_gets_each_shape_whole(shape: str) -> None:
    with receiver(200) as (url, received):
        assert deliver(Receiver(url=url, shape=shape), [ALERT], now=lambda: WHEN) == ""
    assert received == [json.loads(json.dumps(body_for(shape, [ALERT], WHEN)))]


def test_a_broken_receiver_is_tried_again_and_a_refusing_one_is_not() -> None:
    waits: list[float] = []
    with receiver(503, 200) as (url, received):
        assert deliver(Receiver(url=url), [ALERT], wait=waits.append) == ""
        assert len(received) == 2
    with receiver(404) as (url, received):
        assert deliver(Receiver(url=url), [ALERT], wait=waits.append) == "answered 404"
        assert len(received) == 1
    assert len(waits) == 1


def test_a_receiver_that_is_not_there_costs_a_sentence() -> None:
    waits: list[float] = []
    with receiver() as (url, _):
        gone = url
    assert "refused" in deliver(Receiver(url=gone), [ALERT], wait=waits.append)
    assert len(waits) == 2


def test_a_receivers_secret_is_not_shown() -> None:
    assert "secret" not in repr(Receiver(url="https://hooks.example/secret"))
    with pytest.raises(ConfigurationError, match="must be one of"):
        Receiver(url="https://x", shape="pager")

"""The body each kind of receiver wants for an alert. Pure.

generic: Alertmanager's webhook body, version 4 (prometheus.io/docs/alerting/latest/configuration).
slack: an incoming webhook's ``text`` and attachments. wecom: a WeChat Work group robot's markdown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tierline_drills.alerts.rules import Alert

Body = dict[str, Any]
COLOURS = {"page": "danger", "ticket": "warning"}
WECOM_LIMIT = 4096  # bytes of content, the robot's documented maximum


def generic(alerts: Sequence[Alert], when: datetime) -> Body:
    """What Alertmanager sends, so that whatever takes its webhooks takes ours."""
    return {
        "version": "4",
        "groupKey": "{}:{alertname}",
        "status": "firing" if any(a.status == "firing" for a in alerts) else "resolved",
        "receiver": "tierline",
        "groupLabels": {},
        "commonLabels": {"service": "tierline"},
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": [_one(alert, when) for alert in alerts],
    }


def slack(alerts: Sequence[Alert], when: datetime) -> Body:
    """One message, one attachment an alert."""
    return {
        "text": f"Tierline: {_headline(alerts)}",
        "attachments": [
            {
                "color": "good" if a.status == "resolved" else COLOURS.get(a.severity, "warning"),
                "title": a.name,
                "text": a.summary,
                "fields": [
                    {"title": "severity", "value": a.severity, "short": True},
                    {"title": "endpoints", "value": ", ".join(a.endpoints) or "–", "short": True},
                ],
                "ts": int(when.timestamp()),
            }
            for a in alerts
        ],
    }


def wecom(alerts: Sequence[Alert], when: datetime) -> Body:
    """Markdown, cut to the robot's limit at a line's end."""
    lines = [f"**Tierline: {_headline(alerts)}**"]
    for alert in alerts:
        colour = "info" if alert.status == "resolved" else "warning"
        lines.append(f'> <font color="{colour}">{alert.name}</font> {alert.summary}')
    lines.append(f"> {when.isoformat(timespec='seconds')}")
    while len("\n".join(lines).encode()) > WECOM_LIMIT and len(lines) > 1:
        del lines[-1]
    return {"msgtype": "markdown", "markdown": {"content": "\n".join(lines)}}


SHAPES: Mapping[str, Callable[[Sequence[Alert], datetime], Body]] = {
    "generic": generic,
    "slack": slack,
    "wecom": wecom,
}


def body_for(shape: str, alerts: Sequence[Alert], when: datetime) -> Body:
    """The body of one delivery. Raises KeyError for a shape we do not know."""
    return SHAPES[shape](alerts, when)


def _one(alert: Alert, when: datetime) -> Body:
    labels = {"alertname": alert.name, "severity": alert.severity}
    if alert.endpoints:
        labels["endpoint"] = ",".join(alert.endpoints)
    over = alert.status == "resolved"
    return {
        "status": alert.status,
        "labels": labels,
        "annotations": {"summary": alert.summary},
        "startsAt": when.astimezone(UTC).isoformat(),
        "endsAt": when.astimezone(UTC).isoformat() if over else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": hashlib.blake2b(repr(alert.key).encode(), digest_size=8).hexdigest(),
    }


def _headline(alerts: Sequence[Alert]) -> str:
    firing = sum(alert.status == "firing" for alert in alerts)
    over = len(alerts) - firing
    parts = [f"{firing} firing"] if firing else []
    parts += [f"{over} resolved"] if over else []
    return ", ".join(parts) or "nothing"

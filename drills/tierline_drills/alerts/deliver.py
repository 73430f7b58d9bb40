"""Sends alerts to webhooks: retried a little, never in the way of what it watches."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tierline import ConfigurationError
from tierline_drills.alerts.rules import Alert
from tierline_drills.alerts.shapes import SHAPES, body_for

TIMEOUT = 3.0  # seconds for one try
TRIES = 3
PAUSE = 0.2  # seconds before the second try; doubles


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where alerts go. The URL may hold a secret (Slack's and WeChat Work's do): never shown."""

    url: str = field(repr=False)
    shape: str = "generic"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            known = ", ".join(SHAPES)
            raise ConfigurationError(f"must be one of {known}, got {self.shape!r}", key="shape")
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigurationError("must be an http or https URL", key="url")


def deliver(
    receiver: Receiver,
    alerts: Sequence[Alert],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Send them as one body; returns "" or why it could not be delivered. Raises nothing: an alert
    that cannot be delivered must not end what raised it. 5xx and broken connections are tried
    again, 4xx are not."""
    data = json.dumps(body_for(receiver.shape, alerts, now())).encode()
    why = ""
    for number in range(TRIES):
        if number:
            wait(PAUSE * 2 ** (number - 1))
        try:
            status = _post(receiver.url, data)
        except (OSError, http.client.HTTPException) as error:
            why = f"{type(error).__name__}: {error}"
            continue
        if status < 300:
            return ""
        why = f"answered {status}"
        if status < 500 and status != 429:
            break
    return why


def _post(url: str, data: bytes) -> int:
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path or "/", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()

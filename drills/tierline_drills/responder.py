"""Watches callers, processes and the registry while a drill runs; alerts, and responds by itself.

One thread: it reads what the client processes write, asks the pure rules which alerts fire,
delivers them, asks the pure desk which response they want, and carries it out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tierline import TierlineError
from tierline_drills.alerts.deliver import Receiver, deliver
from tierline_drills.alerts.rules import Alert, Observed, Rules
from tierline_drills.recent import Recent
from tierline_drills.responses import Desk, Response

LOOK_EVERY = 0.1  # seconds
REGISTRY_EVERY = 1.0  # seconds between two looks at the registry: opening a bundle hashes it
SERVING_EVERY = 2.0

Tell = Callable[..., None]  # Session.tell: kind, label, endpoints


class Hands(Protocol):
    """What the responder may do, and see, beyond the callers' logs."""

    def observed(self) -> Observed:
        """Processes that ended, damage of the registry, who serves what."""
        ...

    def carry_out(self, response: Response, alert: Alert) -> str:
        """Do it; returns a sentence about what was done. Raises TierlineError."""
        ...


@dataclass(slots=True)
class Responder:
    """The thread. ``start`` and ``stop`` it; it never raises into the drill."""

    rules: Rules
    desk: Desk
    hands: Hands
    recent: Recent
    tell: Tell
    now: Callable[[], float]
    receivers: tuple[Receiver, ...] = ()
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _busy: dict[Response, threading.Thread] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, after the responses that are under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5.0)
        for thread in list(self._busy.values()):
            thread.join(60.0)

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_EVERY):
            now = self.now()
            alerts = self.rules.look(now, self.recent.read(now), self.hands.observed())
            if alerts:
                self._handle(alerts)

    def _handle(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            over = "" if alert.status == "firing" else " (resolved)"
            kind = "alert" if alert.status == "firing" else "note"
            self.tell(kind, f"{alert.name}{over}: {alert.summary}", alert.endpoints)
        threading.Thread(target=self._deliver, args=(list(alerts),), daemon=True).start()
        for alert in alerts:
            response = self.desk.decide(alert, self.now())
            if response is None or response is Response.BY_CLIENTS:
                continue
            thread = threading.Thread(target=self._respond, args=(response, alert), daemon=True)
            self._busy[response] = thread
            thread.start()

    def _deliver(self, alerts: list[Alert]) -> None:
        for receiver in self.receivers:
            why = deliver(receiver, alerts)
            if why:
                self.tell("note", f"an alert could not be delivered ({receiver.shape}): {why}", ())

    def _respond(self, response: Response, alert: Alert) -> None:
        began = time.monotonic()
        try:
            done = self.hands.carry_out(response, alert)
        except (TierlineError, OSError) as error:
            self.tell("note", f"{response.value} failed: {error}", alert.endpoints)
            return
        took = time.monotonic() - began
        self.tell("response", f"{done} (in {took:.1f} s)", alert.endpoints)

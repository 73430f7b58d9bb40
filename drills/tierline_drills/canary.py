"""Asks every node a real question, again and again: a frozen node still accepts connections, and a
node whose model hangs still says that it is ready; neither answers a canary.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

import tierline
from tierline_drills.fleet import Fleet, Node
from tierline_drills.shop import MODEL

INTERVAL = 0.2  # seconds between two questions to one node
PATIENCE = 0.2  # seconds it has to answer
SILENT_AFTER = 2  # unanswered questions in a row


@dataclass(slots=True)
class Canaries:
    """One thread a node. ``silent`` are the nodes that do not answer now."""

    fleet: Fleet
    _unanswered: dict[str, int] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to ask."""
        for node in self.fleet.nodes.values():
            thread = threading.Thread(target=self._ask, args=(node,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2.0)

    def silent(self) -> tuple[str, ...]:
        """The nodes that left two questions in a row unanswered."""
        counted = dict(self._unanswered)
        return tuple(sorted(name for name, count in counted.items() if count >= SILENT_AFTER))

    def _ask(self, node: Node) -> None:
        url = f"http://{node.address}" if node.is_named else node.url
        where = {node.kind: [url]}
        client = tierline.Client(
            **where,  # type: ignore[arg-type]  # edge= or cloud=
            deadline=PATIENCE,
            api_key=self.fleet.token or None,
            retry=tierline.RetryPolicy(attempts=1),
            # It must ask whatever it believes: beliefs are what the callers' clients have.
            breaker=tierline.BreakerPolicy(consecutive=10**9, minimum_calls=10**9),
            ejection=tierline.EjectionPolicy(consecutive=10**9, minimum_calls=10**9),
        )
        history = np.array([1, 2, 3], np.int64)
        with client:
            while not self._stopped.wait(INTERVAL):
                try:
                    answer = client.recommend(
                        MODEL,
                        query={"history": history},
                        k=3,
                        key=f"canary-{node.name}",
                        mode=f"{node.kind}_only",
                    )
                    answered = answer.tier != "client"
                except tierline.CallError:
                    answered = False
                count = 0 if answered else self._unanswered.get(node.name, 0) + 1
                self._unanswered[node.name] = count

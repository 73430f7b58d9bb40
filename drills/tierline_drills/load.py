"""The client processes of one group, and the truth their answers are held against."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tierline
from tierline_drills import lies
from tierline_drills.fleet import Fleet
from tierline_drills.processes import Processes
from tierline_drills.shop import MODEL, Shop, Visit, visits_of
from tierline_drills.tempo import set_tempo
from tierline_drills.truth import K, Truth

VISITS = 48  # users the load takes turns with
CALL_TIMEOUT = 10.0  # seconds a client process may take for its last calls
FIRST = 1_000_000  # the numbers of a restarted client's calls begin beyond all before
TRUTH_DEADLINE = 20.0  # seconds: a cold node may compile


class Load:
    """The client processes of one group."""

    def __init__(
        self,
        processes: Processes,
        fleet: Fleet,
        group: str,
        folder: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.group = group
        self._processes, self._fleet, self._folder = processes, fleet, folder
        self._settings = dict(settings)
        self._golden = {"edge": fleet.shop.edge, "cloud": fleet.shop.cloud}
        clients = int(settings.get("clients", 2))
        self.names = [f"client-{group}-{number}" for number in range(clients)]
        self.logs = [folder / f"{name}.jsonl" for name in self.names]
        self.lies = folder / f"lies-{group}.json"  # what the clients are told; see ``lies``
        self._tempo = folder / f"tempo-{group}"
        self._starts = 0

    def start(self) -> None:
        """Start every client process; they begin to call at ``start``."""
        for place in [*self.logs, self._tempo]:
            place.unlink(missing_ok=True)
        self._start_all()

    def restart(self, start: float) -> None:
        """Kill every client process and start new ones, which know nothing and call from
        ``start`` on; the calls of the time between are not offered."""
        for name in self.names:
            self._processes.kill(name)
        self._starts += 1
        self._settings |= {"start": start, "restarted": True, "first": self._starts * FIRST}
        self._start_all()

    def set_rate(self, rate: float) -> None:
        """Let them call so many times a second together, from now on."""
        set_tempo(self._tempo, rate)

    def _start_all(self) -> None:
        for number, (name, log) in enumerate(zip(self.names, self.logs, strict=True)):
            plan = self._folder / f"{name}.json"
            plan.write_text(json.dumps(self._plan(number, log)), encoding="utf-8")
            command = [sys.executable, "-m", "tierline_drills.caller", str(plan)]
            if self._settings.get("lied_to"):
                command = lies.command(self.lies, command)
            self._processes.start(name, command)

    def stop(self) -> None:
        """Let them end their calls and leave."""
        for name in self.names:
            self._processes.finish(name, CALL_TIMEOUT)

    def _plan(self, number: int, log: Path) -> dict[str, Any]:
        nodes = self._fleet.nodes.values()
        trust = {"standby": "public"}
        kinds = {"edge": "edge", "cloud": "cloud", "standby": "cloud"}
        tiers = [
            {
                "name": tier,
                "kind": kind,
                "trust": trust.get(tier, "private"),
                "urls": [node.url for node in nodes if node.tier == tier],
            }
            for tier, kind in kinds.items()
        ]
        front = self._fleet.front
        if front:  # a yardstick: clients know one address and leave everything to it
            tiers = [{"name": "edge", "kind": "edge", "urls": [front]}]
        client = dict(self._settings.get("client", {}))
        if self._fleet.token:
            client["api_key"] = self._fleet.token
        health = client.get("health")
        if health and health.get("golden"):  # of the bundle that a kind of node serves
            client["health"] = {**health, "golden": str(self._golden[health["golden"]])}
        version = self._settings.get("version")
        return {
            "rate": 40.0,
            "deadline": 0.25,
            "clients": len(self.names),
            **self._settings,
            "version": self._fleet.shop.version if version == "shop" else version,
            "group": self.group,
            "client": client,
            "model": MODEL,
            "tiers": tiers,
            "names": {front: "front"} if front else {n.url: n.name for n in nodes},
            "log": str(log),
            "tempo": str(self._tempo),
            "client_number": number,
        }


def collect_truth(fleet: Fleet, shop: Shop, seed: int) -> tuple[Truth, list[tuple[int, ...]]]:
    """Ask one node of each kind, undisturbed, for its answer to every visit."""
    visits = visits_of(shop, VISITS, seed)
    truth = Truth(targets=[visit.target for visit in visits])
    for kind in ("edge", "cloud"):
        node = next((node for node in fleet.nodes.values() if node.kind == kind), None)
        if node is not None:
            learn(truth, f"http://{node.address}", kind, visits, fleet.token or None)
    return truth, [visit.history for visit in visits]


def learn(truth: Truth, url: str, kind: str, visits: list[Visit], key: str | None) -> str:
    """Add what the bundle at ``url`` answers to every visit; returns the bundle's id."""
    where = {kind: [url]}
    with tierline.Client(**where, deadline=TRUTH_DEADLINE, api_key=key) as client:  # type: ignore[arg-type]  # edge= or cloud=
        given, bundle = [], ""
        for visit in visits:
            answer = client.recommend(
                MODEL,
                query={"history": np.array(visit.history, np.int64)},
                k=K,
                mode=f"{kind}_only",
            )
            assert answer.items is not None
            given.append(([int(i) for i in answer.items], [float(s) for s in answer.scores]))
            bundle = answer.bundle
    truth.answers[bundle] = given
    truth.tiers[bundle] = kind
    return bundle

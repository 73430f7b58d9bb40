"""The drill that runs now: its processes, its load, its log, and what it does when alerts fire."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from tierline_drills import lies
from tierline_drills.alerts.deliver import Receiver
from tierline_drills.alerts.rules import Rules
from tierline_drills.canary import Canaries
from tierline_drills.capacity import measure
from tierline_drills.errors import DrillError
from tierline_drills.fleet import Fleet
from tierline_drills.load import Load, collect_truth
from tierline_drills.processes import Processes, free_ports, tierline_command
from tierline_drills.proxy.client import ProxyClient
from tierline_drills.recent import Recent
from tierline_drills.records import CONTROL, EXPERIMENT, Count, Drill, Event, write_line
from tierline_drills.recovery import Recovery
from tierline_drills.responder import Responder
from tierline_drills.responses import Desk, Response
from tierline_drills.shop import MODEL, Shop, default_folder, make_registry, next_version, open_shop
from tierline_serving.access.audit import AuditBroken, verify
from tierline_serving.registry import Registry

Settings = Mapping[str, Any]
COMING_UP = 2.5  # seconds until a client process that was started calls
PLAN = (
    ("edge-1", "edge", "edge"),
    ("edge-2", "edge", "edge"),
    ("edge-3", "edge", "edge"),
    ("cloud-1", "cloud", "cloud"),
    ("cloud-2", "cloud", "standby"),
)


class Closing(Protocol):
    """Something to be closed once; closing twice is fine."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a drill is told before it starts. ``own`` is the extension "tierline"."""

    id: str
    title: str
    hypothesis: str
    own: Settings
    out: Path
    work: Path = field(default_factory=default_folder)
    negative: bool = False
    seed: int = 7
    name: str = ""  # of the log; default: the id


class Session:
    """One drill, from its first process to its last. ``start``, break things, ``finish``."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.fleet_settings: dict[str, Any] = dict(setup.own.get("fleet", {}))
        self.load_settings: dict[str, Any] = dict(setup.own.get("load", {}))
        name = setup.name or setup.id
        self.folder = setup.out / "work" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.log_path = setup.out / f"{name}.jsonl"
        self.origin = time.monotonic()
        self.processes = Processes(self.folder / "logs")
        self.shop: Shop | None = None
        self.fleets: dict[str, Fleet] = {}
        self.loads: list[Load] = []
        self.proxy: ProxyClient | None = None
        self.registry: Registry | None = None
        self.counts: dict[str, float] = {}
        self.versions: dict[str, Path] = {}  # made before the drill, published in it
        self._events: TextIO | None = None
        self._lock = threading.Lock()
        self._responder: Responder | None = None
        self.recent = Recent(())
        self.canaries: Canaries | None = None
        self.recovery = Recovery(self)
        self.at_end: list[Closing] = []  # what an action opened for as long as the drill lasts

    # -- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and let the load run calmly for ``load.warm`` seconds."""
        self._events = (self.folder / "events.jsonl").open("w", encoding="utf-8")
        self.shop = open_shop(self.processes, self.setup.work, self.setup.seed)
        if self.fleet_settings.get("registry"):
            self.registry = make_registry(self.shop, self.folder / "registry")
        self._start_proxy()
        groups = [EXPERIMENT, CONTROL] if self.fleet_settings.get("control") else [EXPERIMENT]
        for group in groups:
            self.fleets[group] = self._start_fleet(group)
        for fleet in self.fleets.values():
            for name in fleet.nodes:
                fleet.wait_ready(name)
        if self.fleet_settings.get("front"):
            self.fleet.put_in_front(self.fleet_settings["front"])
        self._start_load()
        self._start_responder()
        time.sleep(float(self.load_settings.get("warm", 8.0)))

    def finish(self) -> Path:
        """Let the load run on for ``load.after`` seconds, end everything, write the raw log and
        return where it is."""
        time.sleep(float(self.load_settings.get("after", 8.0)))
        if self._responder is not None:
            self._responder.stop()
        for load in self.loads:
            load.stop()
        self._count_audits()
        self.close()
        return self._write_log()

    def close(self) -> None:
        """End every process, whatever happened."""
        if self._responder is not None:
            self._responder.stop()
        if self.canaries is not None:
            self.canaries.stop()
        self.processes.close()
        for fleet in self.fleets.values():
            fleet.processes.close()
            fleet.namespaces.close()
        for thing in self.at_end:
            thing.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    # -- what actions and probes use -----------------------------------------------------------

    @property
    def fleet(self) -> Fleet:
        """The fleet that is broken."""
        return self.fleets[EXPERIMENT]

    @property
    def load(self) -> Load:
        """The clients of the fleet that is broken."""
        return next(load for load in self.loads if load.group == EXPERIMENT)

    @property
    def chaos(self) -> ProxyClient:
        """The proxy before named nodes. Raises DrillError when there is none."""
        if self.proxy is None:
            raise DrillError("this drill has no chaos proxy: name nodes in fleet.proxied")
        return self.proxy

    def now(self) -> float:
        """Seconds since the drill's origin."""
        return time.monotonic() - self.origin

    def tell(self, kind: str, label: str, endpoints: tuple[str, ...] = ()) -> None:
        """Write an event down."""
        with self._lock:
            if self._events is not None:
                event = Event(self.now(), kind, label, tuple(endpoints))
                self._events.write(write_line(event) + "\n")
                self._events.flush()

    def count(self, name: str, value: float) -> None:
        """Add to a counter of the report."""
        with self._lock:
            self.counts[name] = self.counts.get(name, 0.0) + value

    # -- starting ------------------------------------------------------------------------------

    def _start_proxy(self) -> None:
        if not self.fleet_settings.get("proxied"):
            return
        (port,) = free_ports(1)
        self.processes.start("proxy", tierline_command("drill", "proxy", "--port", str(port)))
        self.processes.wait_ready("proxy", f"http://127.0.0.1:{port}/version")
        self.proxy = ProxyClient(f"127.0.0.1:{port}")

    def _start_fleet(self, group: str) -> Fleet:
        assert self.shop is not None
        folder = self.folder / group
        folder.mkdir(exist_ok=True)
        processes = self.processes
        if group == CONTROL:
            processes = Processes(folder / "logs")
        fleet = Fleet(processes, self.shop, folder, self.proxy if group == EXPERIMENT else None)
        settings = dict(self.fleet_settings)
        if group == CONTROL:
            settings |= {"proxied": False, "faulty": False}
        if self.registry is not None and group == EXPERIMENT:
            root = f"registry:{self.registry.root}/{MODEL}"
            settings["sources"] = {"edge": f"{root}/stable", "cloud": f"{root}/cloud"}
            fleet.keys = folder / "keys.json"
            fleet.token = self._key(fleet.keys)
        wanted = settings.get("nodes")
        plan = [row for row in PLAN if not wanted or row[0] in wanted]
        fleet.add(plan, settings)
        for name in fleet.nodes:
            fleet.start(name)
        return fleet

    def _key(self, place: Path) -> str:
        scopes = [part for scope in ("score", "admin") for part in ("--scope", scope)]
        command = tierline_command("keys", "create", "--file", str(place), "--json", *scopes)
        return str(json.loads(self.processes.run("keys", command, 30.0))["key"])

    def _start_load(self) -> None:
        assert self.shop is not None
        truth, histories = collect_truth(self.fleet, self.shop, self.setup.seed)
        for version in self.fleet_settings.get("versions", ()):
            made = next_version(self.shop, self.shop.edge, self.folder / "made", version)
            self.versions[version] = made.path
            truth.alias(made.id, "edge")
        place = self.folder / "truth.json"
        truth.save(place)
        start = self.now() + COMING_UP
        for group, fleet in self.fleets.items():
            settings = {
                **self.load_settings,
                "origin": self.origin,
                "start": start,
                "wall_origin": time.time() - self.now(),
                "truth": str(place),
                "histories": [list(history) for history in histories],
            }
            if share := self.load_settings.pop("share", None):
                self._set_load(settings, float(share))
            load = Load(self.processes, fleet, group, self.folder, settings)
            names = {f"{n.name}{lies.NAMES}": n.host for n in fleet.nodes.values() if n.is_named}
            lies.tell(load.lies, names=names, pinned=settings.get("pinned"))
            load.start()
            self.loads.append(load)

    def _set_load(self, settings: dict[str, Any], share: float) -> None:
        """Measure what the fleet carries, and load it with that share of it."""
        folder = self.folder / "ramp"
        folder.mkdir()
        ramp = Load(self.processes, self.fleet, EXPERIMENT, folder, settings)
        deadline = float(self.load_settings.get("deadline", 0.25))
        carried = measure(ramp, deadline, settings["start"], self.now)
        found = {"capacity": carried, "share": share, "rate": round(share * carried, 1)}
        self.load_settings |= found
        settings |= {**found, "start": self.now() + COMING_UP}

    def _start_responder(self) -> None:
        drill = self._drill()
        allowed = self.fleet_settings.get("responses")
        responses = frozenset(Response if allowed is None else map(Response, allowed))
        self.recent = Recent(self.load.logs)
        self._responder = Responder(
            rules=Rules(slo=drill.slo, deadline=drill.deadline, tiers=drill.endpoints),
            desk=Desk(allowed=responses),
            hands=self.recovery,
            recent=self.recent,
            tell=self.tell,
            now=self.now,
            receivers=tuple(Receiver(**one) for one in self.fleet_settings.get("receivers", ())),
        )
        if self.fleet_settings.get("canaries", True):  # a paced fleet has no room for them
            self.canaries = Canaries(self.fleet)
            self.canaries.start()
        self._responder.start()

    # -- the log -------------------------------------------------------------------------------

    def _count_audits(self) -> None:
        for fleet in self.fleets.values():
            gaps = 0
            for name in fleet.nodes:
                place = fleet.audit_file(name)
                try:
                    gaps += 0 if not place.exists() or verify(place).lines >= 0 else 1
                except AuditBroken:
                    gaps += 1
            if fleet.keys is not None:
                self.count("audit_gaps", gaps)

    def _drill(self) -> Drill:
        own, load = self.setup.own, self.load_settings
        report = own.get("report", {})
        assert self.shop is not None
        return Drill(
            id=self.setup.id,
            title=self.setup.title,
            hypothesis=self.setup.hypothesis,
            rate=float(load.get("rate", 40.0)),
            deadline=float(load.get("deadline", 0.25)),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            git=revision(),
            machine=machine(),
            seed=self.setup.seed,
            endpoints={name: node.tier for name, node in self.fleet.nodes.items()},
            bundles=(self.shop.edge.name, self.shop.cloud.name),
            settings={"fleet": _shown(self.fleet_settings), "load": load},
            bars=tuple(own.get("bars", ())),
            negative=self.setup.negative,
            **report,
        )

    def _write_log(self) -> Path:
        drill = replace(self._drill(), settings=_plain(self._drill().settings))
        parts = [self.folder / "events.jsonl"]
        parts += [path for load in self.loads for path in load.logs]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("w", encoding="utf-8") as log:
            log.write(write_line(drill) + "\n")
            for part in parts:
                if part.exists():
                    log.write(part.read_text(encoding="utf-8"))
            for name, value in sorted(self.counts.items()):
                log.write(write_line(Count(name, float(value))) + "\n")
        return self.log_path


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def revision() -> str:
    """The commit of the checkout this runs from; "" outside of one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may hold a secret."""
    return {key: value for key, value in settings.items() if key != "receivers"}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))

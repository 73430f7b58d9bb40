"""The nodes of a drill: where they listen, what they serve, how they are started again."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierline_drills import front, lies
from tierline_drills.errors import DrillError
from tierline_drills.network import Namespace, Namespaces
from tierline_drills.processes import Processes, answers, free_ports, tierline_command
from tierline_drills.proxy.client import ProxyClient
from tierline_drills.shop import MODEL, Shop

LOAD_TIMEOUT = 60.0  # seconds a node may take to load a bundle anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One endpoint's process. ``url`` is what clients are told: the node's own address, or that of
    the proxy in front of it."""

    name: str
    kind: str  # "edge" | "cloud"
    tier: str  # "edge" | "cloud" (private, primary) | "standby" (public)
    port: int
    url: str
    faulty: bool = False
    source: str = ""  # what it serves: a bundle's folder or registry:…
    host: str = "127.0.0.1"
    namespace: Namespace | None = None
    lied_to: bool = False  # about the time and its disk
    options: tuple[str, ...] = ()  # further ones of `serve`

    @property
    def is_named(self) -> bool:
        """Whether clients know it by a name that only the drill resolves."""
        return lies.NAMES in self.url

    @property
    def address(self) -> str:
        """Its own ``host:port``."""
        return f"{self.host}:{self.port}"


@dataclass(slots=True)
class Fleet:
    """The nodes of one group. Use it from the session only."""

    processes: Processes
    shop: Shop
    folder: Path
    proxy: ProxyClient | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    keys: Path | None = None  # key file: nodes then ask for keys and may be told to load
    token: str = field(default="", repr=False)
    namespaces: Namespaces = field(default_factory=Namespaces)
    front: str = ""  # the URL of a yardstick before the edge nodes

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the edge nodes."""
        return tuple(name for name, node in self.nodes.items() if node.kind == "edge")

    def add(self, plan: Sequence[tuple[str, str, str]], settings: dict[str, Any]) -> None:
        """Place the nodes (name, kind, tier). ``settings``: proxied, faulty, namespaced, named and
        lied_to name nodes or are True for all; sources map a kind to what it serves, options to
        options of its server; ``pace`` is the least time in seconds of an edge node's batch."""
        sources, options = settings.get("sources", {}), settings.get("options", {})
        pace = float(settings.get("pace", 0.0))
        for (name, kind, tier), port in zip(plan, free_ports(len(plan)), strict=True):
            namespace = (
                self.namespaces.make() if _chosen(settings.get("namespaced"), name) else None
            )
            host = "127.0.0.1" if namespace is None else namespace.host
            url = f"http://{host}:{port}"
            if _chosen(settings.get("proxied"), name):
                if self.proxy is None:
                    raise DrillError("a proxied node needs the chaos proxy")
                url = "http://" + self.proxy.create(name, f"{host}:{port}")
                if _chosen(settings.get("named"), name):
                    url = f"http://{name}{lies.NAMES}:{url.rpartition(':')[2]}"
            default = str(self.shop.edge if kind == "edge" else self.shop.cloud)
            self.nodes[name] = Node(
                name=name,
                kind=kind,
                tier=tier,
                port=port,
                url=url,
                faulty=_chosen(settings.get("faulty"), name) or bool(pace and kind == "edge"),
                source=sources.get(kind, default),
                host=host,
                namespace=namespace,
                lied_to=_chosen(settings.get("lied_to"), name),
                options=tuple(options.get(kind, ())),
            )
            if pace and kind == "edge":
                self.set_fault(name, {"kind": "slow", "seconds": pace})

    def put_in_front(self, name: str) -> None:
        """Start nginx or HAProxy before the edge nodes, which must be ready. Raises NotHere."""
        (port,) = free_ports(1)
        edges = [node.address for node in self.nodes.values() if node.kind == "edge"]
        line = front.command(name, self.folder / name, port, edges)
        self.processes.start(name, line, front.environment())
        self.front = f"http://127.0.0.1:{port}"
        self.processes.wait_ready(name, f"{self.front}/readyz")

    def start(self, name: str, *, nice: int = 0) -> None:
        """Start (or start again) a node; it is not ready yet. With ``nice`` it gives way to the
        others until it is."""
        node = self.nodes[name]
        serving = ["serve", node.source, "--port", str(node.port), "--threads", "1"]
        serving += ["--trust", str(self.shop.public), *node.options]
        if self.keys is not None:
            serving += ["--keys", str(self.keys), "--audit", str(self.audit_file(name))]
        command = tierline_command(node.kind, *serving)
        if node.faulty:
            place = str(self.fault_file(name))
            module = [sys.executable, "-m", "tierline_drills.node"]
            command = [*module, place, node.kind, *serving]
        if node.lied_to:
            command = lies.command(self.lies_file(name), command)
        if node.namespace is not None:
            command = node.namespace.command([*command, "--host", node.host, "--allow-remote"])
        one_core = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.processes.start(name, command, one_core, nice=nice)

    def wait_ready(self, name: str) -> None:
        """Wait until it is ready. Raises DrillError."""
        self.processes.wait_ready(name, f"http://{self.nodes[name].address}/readyz")

    def is_ready(self, name: str) -> bool:
        """Whether it says so now."""
        return answers(f"http://{self.nodes[name].address}/readyz", timeout=0.3)

    def ended(self) -> tuple[str, ...]:
        """Nodes whose process is gone."""
        return tuple(name for name in self.nodes if not self.processes.is_alive(name))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._known(name)
        self.processes.kill(name)

    def freeze(self, name: str) -> None:
        """SIGSTOP: connections are accepted by the kernel, and nothing moves."""
        self._known(name)
        self.processes.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._known(name)
        with contextlib.suppress(DrillError):
            self.processes.signal(name, signal.SIGCONT)

    def fault_file(self, name: str) -> Path:
        """Where a faulty node reads what is wrong with its model."""
        return self.folder / f"{name}.fault.json"

    def lies_file(self, name: str) -> Path:
        """Where a node that is lied to finds what it is told."""
        if name in self.nodes and not self.nodes[name].lied_to:
            raise DrillError(f"{name} is told the truth; name it in fleet.lied_to")
        return self.folder / f"{name}.lies.json"

    def audit_file(self, name: str) -> Path:
        """Where a node with keys writes its audit log."""
        return self.folder / f"{name}.audit"

    def set_fault(self, name: str, fault: dict[str, Any] | None) -> None:
        """Make its model faulty, or sound again."""
        if not self._known(name).faulty:
            raise DrillError(f"{name} is a stock node; name it in fleet.faulty")
        place = self.fault_file(name)
        if fault is None:
            place.unlink(missing_ok=True)
        else:
            staged = place.with_suffix(".new")
            staged.write_text(json.dumps(fault), encoding="utf-8")
            staged.replace(place)

    def load(self, name: str) -> str:
        """Tell a node to load its model anew from its source; returns "" or why it did not."""
        path = f"/v2/repository/models/{MODEL}/load"
        try:
            status, body = self._ask(name, "POST", path, LOAD_TIMEOUT)
        except OSError as error:
            return f"{name}: {error}"
        return "" if status == 200 else f"{name}: {status} {body.decode(errors='replace')}"

    def serving(self, name: str) -> str:
        """The bundle a node serves now; "" when it does not answer."""
        try:
            _, body = self._ask(name, "GET", f"/v1/models/{MODEL}", 1.0)
            return str(json.loads(body).get("bundle", ""))
        except (OSError, ValueError):
            return ""

    def _ask(self, name: str, method: str, path: str, timeout: float) -> tuple[int, bytes]:
        node = self._known(name)
        connection = http.client.HTTPConnection(node.host, node.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request(method, path, b"{}" if method == "POST" else None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _known(self, name: str) -> Node:
        if name not in self.nodes:
            raise DrillError(f"there is no node {name!r}; nodes: {', '.join(self.nodes)}")
        return self.nodes[name]


def _chosen(setting: object, name: str) -> bool:
    return setting is True or (isinstance(setting, list) and name in setting)

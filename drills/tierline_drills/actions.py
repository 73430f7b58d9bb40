"""Actions an experiment may name: each breaks or mends one thing of the drill that runs now."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tierline_drills import storage
from tierline_drills.control import current
from tierline_drills.errors import DrillError
from tierline_drills.network import Namespace
from tierline_drills.processes import tierline_command
from tierline_drills.shop import MODEL
from tierline_serving.registry import Registry


def kill(node: str) -> str:
    """SIGKILL a node's process."""
    session = current()
    session.tell("inject", f"kill {node}", (node,))
    session.fleet.kill(node)
    return f"killed {node}"


def start(node: str) -> str:
    """Start a node and wait until it is ready; fine when it runs."""
    session = current()
    if node in session.fleet.ended():
        session.fleet.start(node)
        session.fleet.wait_ready(node)
        session.tell("clear", f"{node} is ready again", (node,))
    return f"{node} runs"


def freeze(node: str) -> str:
    """SIGSTOP a node: it accepts connections and does not move."""
    session = current()
    session.tell("inject", f"freeze {node}", (node,))
    session.fleet.freeze(node)
    return f"froze {node}"


def thaw(node: str, quietly: bool = False) -> str:
    """SIGCONT a node. ``quietly``: as a rollback, when it may already run."""
    session = current()
    session.fleet.thaw(node)
    if not quietly:
        session.tell("clear", f"thaw {node}", (node,))
    return f"thawed {node}"


def cut(nodes: list[str]) -> str:
    """No byte passes to or from these nodes, and nobody is told: a black hole (proxied nodes)."""
    session = current()
    session.tell("inject", f"cut {', '.join(nodes)}", tuple(nodes))
    for node in nodes:
        for stream in ("upstream", "downstream"):
            toxic = {"name": f"cut_{stream}", "type": "timeout", "stream": stream}
            current().chaos.add(node, {**toxic, "attributes": {"timeout": 0}})
    return f"cut {nodes}"


def unplug(node: str) -> str:
    """Pull the cable of a node in a network namespace of its own."""
    session = current()
    session.tell("inject", f"unplug {node}", (node,))
    _cable(node).unplug()
    return f"unplugged {node}"


def plug(node: str, quietly: bool = False) -> str:
    """Put the cable back."""
    _cable(node).plug()
    if not quietly:
        current().tell("clear", f"{node} is plugged in again", (node,))
    return f"plugged {node}"


def add_toxic(
    node: str,
    type: str,
    attributes: dict[str, Any] | None = None,
    stream: str = "downstream",
    toxicity: float = 1.0,
) -> str:
    """Any toxic of the proxy in front of a node."""
    session = current()
    session.tell("inject", f"{type} {attributes or {}} on {node} ({stream})", (node,))
    toxic = {"type": type, "stream": stream, "toxicity": toxicity, "attributes": attributes or {}}
    current().chaos.add(node, toxic)
    return f"{type} on {node}"


def take_down(node: str) -> str:
    """Nobody listens at a node's address any more: connections are refused (proxied nodes)."""
    session = current()
    session.tell("inject", f"take down {node}", (node,))
    current().chaos.enable(node, enabled=False)
    return f"took down {node}"


def come_back(node: str) -> str:
    """What was taken down is listened at again, with whatever toxics are there (proxied nodes)."""
    current().tell("note", f"{node} is listened at again", (node,))
    current().chaos.enable(node, enabled=True)
    return f"{node} is back"


def mend_network(nodes: list[str], quietly: bool = False) -> str:
    """Take every toxic away and let the proxies listen."""
    session = current()
    for node in nodes:
        current().chaos.clear(node)
    if not quietly:
        session.tell("clear", f"network of {', '.join(nodes)} mended", tuple(nodes))
    return f"mended {nodes}"


def break_model(
    node: str, kind: str, bundle: str = "", seconds: float = 0.0, share: float = 1.0
) -> str:
    """Make a node's model slow, hang, fail or wrong (nodes named in fleet.faulty)."""
    session = current()
    session.tell("inject", f"model of {node}: {kind} {bundle}".rstrip(), (node,))
    session.fleet.set_fault(
        node, {"kind": kind, "bundle": bundle, "seconds": seconds, "share": share}
    )
    return f"{kind} on {node}"


def mend_model(node: str, quietly: bool = False) -> str:
    """Make a node's model sound again."""
    session = current()
    session.fleet.set_fault(node, None)
    if not quietly:
        session.tell("clear", f"model of {node} sound again", (node,))
    return f"{node} is sound"


def prepare_fault(nodes: list[str], kind: str, bundle: str) -> str:
    """A bug that is only in a bundle nobody serves yet: not an injection until it is published."""
    session = current()
    for node in nodes:
        session.fleet.set_fault(node, {"kind": kind, "bundle": bundle})
    session.tell("note", f"version {bundle} will be faulty: {kind}", tuple(nodes))
    return f"{bundle} is faulty"


def publish(version: str, back_up: bool = True, inject: bool = False) -> str:
    """Publish the edge model as a new version, let every edge node load it, back the registry up.
    ``inject``: this publish is the fault (its bundle is bad)."""
    session, registry = current(), _registry()
    shop = session.shop
    assert shop is not None
    edges = session.fleet.edges
    if version not in session.versions:
        raise DrillError(f"version {version} is not made yet: name it in fleet.versions")
    bundle = session.versions[version]
    registry.publish(bundle, trust=shop.trust)
    session.recovery.acknowledged()
    if inject:
        session.tell("inject", f"publish {version}", edges)
    if session.fleet_settings.get("swap") == "restart":
        _restart_all(edges)  # what a negative control does instead of a hot swap
    else:
        for name in edges:
            why = session.fleet.load(name)
            if why:
                raise DrillError(f"version {version} was not loaded: {why}")
    if back_up:
        storage.take_backup(registry, session.folder / "backups")
    session.tell("note", f"every edge node serves {bundle.name}", edges)
    return bundle.name


def publish_on_full_disk(version: str) -> str:
    """Publish while no file may grow beyond a few bytes: it must fail and change nothing. As a
    negative control (``fleet.torn``) the bundle in use is torn, as by a publisher that writes in
    place."""
    session, registry = current(), _registry()
    shop = session.shop
    assert shop is not None
    session.tell("inject", f"publish {version} on a full disk", ())
    if session.fleet_settings.get("torn"):
        storage.truncate(storage.largest_file(registry, MODEL))
        said = "torn"
    else:
        bundle = session.versions[version]
        said = storage.publish_when_full(registry, bundle, shop.public)
    session.count("torn_bundles", float(bool(storage.damage(registry, shop.trust))))
    session.tell("clear", f"the publish ended: {said}", ())
    return said


def _restart_all(names: tuple[str, ...]) -> None:
    fleet = current().fleet
    for name in names:
        fleet.kill(name)
    for name in names:
        fleet.start(name)
    for name in names:
        fleet.wait_ready(name)


def back_up() -> str:
    """Write a backup of the registry."""
    session = current()
    session.recovery.acknowledged()
    return storage.take_backup(_registry(), session.folder / "backups").name


def lose_registry(corrupt_newest_backup: bool = True) -> str:
    """The registry's disk is gone, and the newest backup turns out to be damaged."""
    session = current()
    found = storage.backups(session.folder / "backups")
    if corrupt_newest_backup and found:
        storage.flip_bit(found[0])
    session.tell("inject", f"registry lost; {len(found)} backup(s), the newest damaged", ())
    storage.lose(_registry())
    return "lost"


def corrupt_bundle() -> str:
    """One bit of the largest file of the bundle in use flips."""
    session = current()
    session.tell("inject", "one bit of the bundle in use flips", ())
    storage.flip_bit(storage.largest_file(_registry(), MODEL))
    return "flipped"


def wait_for_registry(timeout: float = 60.0) -> str:
    """Wait until the registry is whole again, whoever mends it. Raises DrillError when it is not
    in time."""
    session = current()
    assert session.shop is not None
    until = time.monotonic() + timeout
    while why := storage.damage(_registry(), session.shop.trust):
        if time.monotonic() > until:
            raise DrillError(f"after {timeout:.0f} s {why}")
        time.sleep(0.1)
    return "whole"


def retrain(minutes: float = 0.5, timeout: float = 400.0) -> str:
    """Train anew from the last good data and publish behind two gates: a model that answers
    otherwise after its export is not packed (parity), and an edge bundle that does not answer its
    golden requests is not published. It goes to the channel "candidate": serving is not touched."""
    session, registry = current(), _registry()
    shop = session.shop
    assert shop is not None
    out = session.folder / "retrained"
    size = ["--recipe", "quick", "--max-minutes", str(minutes), "--threads", "1"]
    made = ["--out", str(out), "--key", str(shop.key), "--model", MODEL]
    said = ["--json", str(session.folder / "retrained.json")]
    command = tierline_command("train", str(shop.data), *size, *made, *said)
    session.processes.run("retraining", command, timeout)
    document = json.loads((session.folder / "retrained.json").read_text(encoding="utf-8"))
    edge = Path(document["bundles"]["edge"])
    checked = tierline_command("edge", "check", str(edge), "--trust", str(shop.public))
    session.processes.run("gate", [*checked, "--threads", "1"], 60.0)
    registry.publish(edge, trust=shop.trust, channel="candidate")
    session.count("retrained", 1)
    session.tell("response", f"retrained from the last good data, published {edge.name}", ())
    return edge.name


def _cable(node: str) -> Namespace:
    found = current().fleet.nodes.get(node)
    if found is None or found.namespace is None:
        raise DrillError(f"{node} has no cable to pull: name it in fleet.namespaced")
    return found.namespace


def _registry() -> Registry:
    registry = current().registry
    if registry is None:
        raise DrillError("this drill has no registry: set fleet.registry")
    return registry

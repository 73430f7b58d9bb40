"""Actions an experiment may name: nodes and clients are lied to about time, disk and names."""

from __future__ import annotations

from tierline_drills import lies, storage
from tierline_drills.control import current
from tierline_drills.errors import DrillError

MOVED_TO = "127.0.0.2"  # where a named node is found after it has moved: this machine all the same


def step_clock(nodes: list[str], seconds: float, clients: bool = False) -> str:
    """The wall clock of these nodes (and of every client) is off by so many seconds."""
    session = current()
    who = [*nodes, "every client"] if clients else nodes
    session.tell("inject", f"clock of {', '.join(who)} off by {seconds:+g} s", tuple(nodes))
    _set_clocks(nodes, seconds, clients)
    return f"{seconds:+g} s"


def set_clocks_right(nodes: list[str], clients: bool = True, quietly: bool = False) -> str:
    """Every wall clock tells the time again."""
    _set_clocks(nodes, None, clients)
    if not quietly:
        current().tell("clear", "every clock is right again", tuple(nodes))
    return "right"


def lose_names() -> str:
    """No name server answers any more; connections that are open stay so."""
    session = current()
    session.tell("inject", "no name can be resolved", tuple(session.fleet.nodes))
    lies.tell(session.load.lies, names={})
    return "lost"


def drop_connections(nodes: list[str]) -> str:
    """Every connection to these nodes breaks off; new ones are taken (proxied nodes)."""
    session = current()
    session.tell("note", f"connections to {', '.join(nodes)} break off", tuple(nodes))
    for node in nodes:
        session.chaos.enable(node, enabled=False)
        session.chaos.enable(node, enabled=True)
    return f"dropped {nodes}"


def move(nodes: list[str]) -> str:
    """These nodes get another address, at which names now lead to them; nobody listens at the old
    one any more. Whatever could not be resolved can be again."""
    session = current()
    addresses = {}
    for name, node in session.fleet.nodes.items():
        if name in nodes:
            port = node.url.rpartition(":")[2]
            session.chaos.create(f"{name}-moved", node.address, f"{MOVED_TO}:{port}")
            session.chaos.enable(name, enabled=False)
        addresses[f"{name}{lies.NAMES}"] = MOVED_TO if name in nodes else "127.0.0.1"
    lies.tell(session.load.lies, names=addresses)
    session.tell("clear", f"names lead to {', '.join(nodes)} at their new address", tuple(nodes))
    return f"moved {nodes}"


def break_disk(nodes: list[str]) -> str:
    """Every flush to these nodes' disks fails."""
    session = current()
    session.tell("inject", f"disk of {', '.join(nodes)}: I/O errors", tuple(nodes))
    for node in nodes:
        lies.tell(session.fleet.lies_file(node), fsync=True)
    return f"broke the disk of {nodes}"


def mend_disk(nodes: list[str], quietly: bool = False) -> str:
    """Disks are whole again."""
    session = current()
    for node in nodes:
        lies.tell(session.fleet.lies_file(node), fsync=None)
    if not quietly:
        session.tell("clear", f"disk of {', '.join(nodes)} whole again", tuple(nodes))
    return f"mended the disk of {nodes}"


def publish_on_broken_disk(version: str) -> str:
    """Publish while every flush to the disk fails with EIO: it must fail and change nothing. As a
    negative control (``fleet.torn``) the bundle in use is torn, as by a publisher that goes on."""
    session = current()
    shop, registry = session.shop, session.registry
    if shop is None or registry is None:
        raise DrillError("this drill has no registry: set fleet.registry")
    session.tell("inject", f"publish {version} on a disk with I/O errors", ())
    if session.fleet_settings.get("torn"):
        storage.truncate(storage.largest_file(registry, "shop"))
        said = "torn"
    else:
        place = session.folder / "publisher.lies.json"
        lies.tell(place, fsync=True)
        bundle = session.versions[version]
        said = storage.publish_on_broken_disk(registry, bundle, shop.public, place)
    session.count("torn_bundles", float(bool(storage.damage(registry, shop.trust))))
    session.tell("clear", f"the publish ended: {said}", ())
    return said


def publish_to_broken_nodes(version: str) -> str:
    """Publish a version, and let every edge node load it though some of their disks fail: each
    must load it or say why not, and what it served before serves on."""
    session = current()
    shop, registry = session.shop, session.registry
    if shop is None or registry is None:
        raise DrillError("this drill has no registry: set fleet.registry")
    if session.fleet_settings.get("torn"):
        return "torn already"
    registry.publish(session.versions[version], trust=shop.trust)
    said = [session.fleet.load(name) or f"{name}: loaded" for name in session.fleet.edges]
    session.tell("note", "; ".join(said), session.fleet.edges)
    return "; ".join(said)


def _set_clocks(nodes: list[str], seconds: float | None, clients: bool) -> None:
    session = current()
    for node in nodes:
        lies.tell(session.fleet.lies_file(node), clock=seconds)
    if clients:
        lies.tell(session.load.lies, clock=seconds)

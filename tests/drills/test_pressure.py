"""Actions that press on a fleet, or lie to it, on a session made up by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tierline_drills import control, deceit, pressure
from tierline_drills.errors import DrillError
from tierline_drills.fleet import Fleet, Node


class Clients:
    """The load of a session; keeps what it was told."""

    def __init__(self, folder: Path) -> None:
        self.lies = folder / "lies.json"
        self.rates: list[float] = []

    def set_rate(self, rate: float) -> None:
        self.rates.append(rate)


class Chaos:
    """A proxy client; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def create(self, name: str, upstream: str, listen: str) -> str:
        self.asked.append(("create", name, upstream, listen))
        return listen

    def enable(self, name: str, *, enabled: bool) -> None:
        self.asked.append(("enable", name, enabled))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A session of one named edge node that really listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node = Node(
            name="edge-1", kind="edge", tier="edge", port=port, url="http://edge-1.drill:81",
            lied_to=True,
        )  # fmt: skip
        fleet = Fleet.__new__(Fleet)
        fleet.nodes, fleet.folder = {"edge-1": node}, tmp_path
        told: list[tuple[str, str]] = []
        found = SimpleNamespace(
            fleet=fleet,
            fleet_settings={},
            load_settings={"rate": 40},
            load=Clients(tmp_path),
            chaos=Chaos(),
            at_end=[],
            told=told,
            tell=lambda kind, label, endpoints=(): told.append((kind, label)),
            server=server,
        )
        monkeypatch.setattr(control, "_current", [found])
        yield found


def test_a_surge_ends_at_the_rate_of_before(session: Any) -> None:
    pressure.surge(120)
    pressure.calm()
    pressure.calm(quietly=True)
    assert session.load.rates == [120, 40.0, 40.0]
    assert [kind for kind, _ in session.told] == ["inject", "clear"]


def test_a_hanging_collector_asks_and_never_reads_and_can_be_ended(session: Any) -> None:
    pressure.lose_metrics(connections=2)
    asked = []
    for _ in range(2):
        connection, _ = session.server.accept()
        with connection:
            connection.settimeout(5.0)
            asked.append(connection.recv(1024))
    assert sorted(text.endswith(b"\r\n\r\n") for text in asked) == [False, True]
    pressure.find_metrics()
    assert session.at_end[0].sockets == []


def test_a_node_that_moves_is_found_at_its_new_address_under_its_old_name(session: Any) -> None:
    deceit.lose_names()
    assert json.loads(session.load.lies.read_text()) == {"names": {}}
    deceit.move(["edge-1"])
    names = json.loads(session.load.lies.read_text())["names"]
    assert names == {"edge-1.drill": "127.0.0.2"}
    upstream = session.fleet.nodes["edge-1"].address
    create = ("create", "edge-1-moved", upstream, "127.0.0.2:81")
    assert session.chaos.asked == [create, ("enable", "edge-1", False)]


def test_clocks_and_disks_are_set_right_again(session: Any, tmp_path: Path) -> None:
    told = tmp_path / "edge-1.lies.json"
    deceit.step_clock(["edge-1"], 300, clients=True)
    deceit.break_disk(["edge-1"])
    assert json.loads(told.read_text()) == {"clock": 300, "fsync": True}
    assert json.loads(session.load.lies.read_text()) == {"clock": 300}
    deceit.set_clocks_right(["edge-1"])
    deceit.mend_disk(["edge-1"])
    assert json.loads(told.read_text()) == {}
    assert json.loads(session.load.lies.read_text()) == {}


def test_a_node_that_is_told_the_truth_cannot_be_lied_to(session: Any) -> None:
    session.fleet.nodes["edge-2"] = Node(name="edge-2", kind="edge", tier="edge", port=1, url="u")
    with pytest.raises(DrillError, match=r"name it in fleet\.lied_to"):
        deceit.step_clock(["edge-2"], 1.0)

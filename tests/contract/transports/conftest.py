"""Servers and drivers for the conformance suite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .drivers import KINDS, AsyncDriver, SyncDriver, open_driver
from .scripted_server import ScriptedServer


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (108 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="tl") as folder:
        yield Path(folder)


@pytest.fixture(params=["http", "unix"])
def server(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[ScriptedServer]:
    path = str(short_folder / "s") if request.param == "unix" else None
    with ScriptedServer(unix_path=path) as scripted:
        yield scripted


@pytest.fixture
def http_server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def driver(kind: str, server: ScriptedServer) -> Iterator[SyncDriver | AsyncDriver]:
    opened = open_driver(kind, server.url)
    yield opened
    opened.close()


@pytest.fixture
def http_driver(kind: str, http_server: ScriptedServer) -> Iterator[SyncDriver | AsyncDriver]:
    opened = open_driver(kind, http_server.url)
    yield opened
    opened.close()

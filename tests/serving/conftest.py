"""The fakes beside the tests are imported by name; one real server for all protocol tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from processes import Served, running


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without access control."""
    with running(tmp_path_factory.mktemp("node")) as served:
        yield served

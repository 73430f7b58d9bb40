"""The yardstick's configurations name every node, and what is not installed is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierline_drills import front
from tierline_drills.errors import DrillError, NotHere

NODES = ["127.0.0.1:1001", "127.0.0.1:1002"]


def test_both_configurations_name_every_node_and_retry_on_the_next() -> None:
    passive = front.nginx(Path("/run/front"), 8080, NODES)
    active = front.haproxy(8080, NODES)
    for text in (passive, active):
        assert all(node in text for node in NODES)
        assert "127.0.0.1:8080" in text
    assert "proxy_next_upstream error timeout" in passive
    assert "retry-on all-retryable-errors" in active
    assert passive.count("{") == passive.count("}")


def test_a_program_that_is_not_here_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(front.ROOT, str(tmp_path))
    with pytest.raises(NotHere, match="apt-get install nginx"):
        front.command("nginx", tmp_path / "n", 8080, NODES)
    with pytest.raises(DrillError, match="must be one of"):
        front.command("envoy", tmp_path / "n", 8080, NODES)

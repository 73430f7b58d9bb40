"""The batch script writes every user's recommendations and says who answered."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import batch_scoring
import pytest
from fake_tier import fake_tier


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["batch_scoring.py", *arguments])
    return batch_scoring.main()


def test_every_user_gets_a_ranked_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users, out = tmp_path / "users.txt", tmp_path / "out.csv"
    users.write_text("ann 1 2\nbob 2\n\ncold\n")
    with fake_tier("edge", uncertainty=0.9) as edge, fake_tier("cloud") as cloud:
        code = run(
            monkeypatch, str(users), str(out), "--edge", edge, "--cloud", cloud, "--k", "2"
        )  # fmt: skip
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert code == 0
    assert [(row["user"], row["rank"], row["item"]) for row in rows] == [
        ("ann", "1", "3"), ("ann", "2", "4"),
        ("bob", "1", "1"), ("bob", "2", "3"),
        ("cold", "1", "1"), ("cold", "2", "2"),
    ]  # fmt: skip
    assert {row["tier"] for row in rows} == {"cloud"}
    assert "3 users: 3 from cloud; 0 failed" in capsys.readouterr().out


def test_a_line_that_is_no_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("ann 1\nbob one\n")
    with pytest.raises(SystemExit, match="line 2: item ids are integers"):
        list(batch_scoring.read_users(tmp_path / "users.txt"))

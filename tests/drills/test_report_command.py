"""`tierline drill report`: every figure again from the raw log, and a page of its own."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import logs
import pytest
from test_records import written

from tierline.cli import main
from tierline_drills.commands import load_log
from tierline_drills.page import Chapter, page
from tierline_drills.report import report

BARS = ({"figure": "recovery.mttd", "at_most": 0.5},)


def save(path: Path, *, negative: bool = False, limit: float = 0.5) -> Path:
    log = logs.crash()
    bars = ({"figure": "recovery.mttd", "at_most": limit},)
    log.drill = dataclasses.replace(log.drill, bars=bars, negative=negative)
    path.write_text("".join(written(log)))
    return path


def test_a_log_gives_the_same_report_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, target = save(tmp_path / "one.jsonl"), tmp_path / "figures.json"
    assert main(["drill", "report", str(place), "--json", str(target)]) == 0
    (found,) = json.loads(target.read_text())
    assert found["recovery"]["mttd"] == pytest.approx(0.2)
    assert "One of three edge nodes dies: passed" in capsys.readouterr().out


def test_a_compressed_log_is_the_same_log(tmp_path: Path) -> None:
    packed = tmp_path / "one.jsonl.gz"
    packed.write_bytes(gzip.compress(save(tmp_path / "one.jsonl").read_bytes()))
    assert load_log(packed) == load_log(tmp_path / "one.jsonl")


def test_a_missed_bar_is_told_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "report", str(save(tmp_path / "one.jsonl", limit=0.1))]) == 3
    assert "MISSED  recovery.mttd ≤ 0.1   (0.2)" in capsys.readouterr().out


def test_a_negative_control_must_fail(tmp_path: Path) -> None:
    failing = save(tmp_path / "a.jsonl", negative=True, limit=0.1)
    holding = save(tmp_path / "b.jsonl", negative=True, limit=0.5)
    assert main(["drill", "report", str(failing)]) == 0
    assert main(["drill", "report", str(holding)]) == 3


def test_a_log_that_is_not_there_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "report", str(tmp_path / "none.jsonl")]) == 1
    assert "cannot read the log" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_holds_its_picture_and_links_to_nothing(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    places = [save(tmp_path / "a.jsonl"), save(tmp_path / "b.jsonl", negative=True, limit=0.1)]
    assert main(["drill", "report", *map(str, places), "--html", str(target)]) == 0
    text = target.read_text()
    assert "data:image/png;base64," in text
    assert "failed, as it must" in text
    assert "http://" not in text
    assert "https://" not in text


def test_what_a_log_says_is_escaped_on_the_page() -> None:
    log = logs.crash()
    log.drill = dataclasses.replace(log.drill, title="<script>alert(1)</script>")
    text = page("Drills", [Chapter(report=report(log))])
    assert "<script>" not in text

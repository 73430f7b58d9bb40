"""What callers saw lately: each line read once, half lines waited for, old calls forgotten."""

from __future__ import annotations

from pathlib import Path

import logs
import pytest

from tierline_drills.errors import DrillError
from tierline_drills.recent import KEPT, Recent
from tierline_drills.records import CONTROL, Call, write_line


def write(place: Path, *calls: Call) -> None:
    with place.open("a", encoding="utf-8") as log:
        log.writelines(f"{write_line(call)}\n" for call in calls)


def numbers(calls: list[Call]) -> list[int]:
    return [call.number for call in calls]


def test_a_call_is_new_once_and_recent_for_a_while(tmp_path: Path) -> None:
    place = tmp_path / "client.jsonl"
    recent = Recent([place])
    assert recent.read(0.5) == []
    write(place, logs.call(1, 1.0), logs.call(2, 2.0, group=CONTROL))
    assert numbers(recent.read(2.5)) == [1]
    write(place, logs.call(3, 3.0))
    assert numbers(recent.read(3.5)) == [3]
    assert numbers(recent.last(1.0, 3.5)) == [3]
    assert numbers(recent.last(10.0, 3.5)) == [1, 3]
    recent.read(1.1 + KEPT)
    assert numbers(recent.last(KEPT, 3.5)) == [3]


def test_half_a_line_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "client.jsonl"
    recent = Recent([place])
    line = write_line(logs.call(1, 1.0))
    place.write_text(line[:40], encoding="utf-8")
    assert recent.read(1.5) == []
    place.write_text(line + "\n", encoding="utf-8")
    assert numbers(recent.read(1.6)) == [1]


def test_wrong_answers_are_counted_for_ever(tmp_path: Path) -> None:
    place = tmp_path / "client.jsonl"
    recent = Recent([place])
    write(place, logs.call(1, 1.0, wrong="another score"))
    recent.read(1.5)
    recent.read(2 * KEPT)
    assert recent.wrong_answers == 1
    assert recent.last(KEPT, 2 * KEPT) == []


def test_nobody_looks_back_on_what_was_forgotten() -> None:
    with pytest.raises(DrillError, match="60 s"):
        Recent([]).last(KEPT + 1.0, 100.0)

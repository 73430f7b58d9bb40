"""The audit log: every edit of it shows, and several writers keep one chain."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierline.cli import EXIT_DONE, EXIT_REFUSED, main
from tierline_serving.access.audit import AuditBroken, AuditLog, chained, verify


def written(path: Path, lines: int = 5) -> list[str]:
    log = AuditLog(path)
    return [log.append(actor="user:ann", action="model.load", subject=str(n)) for n in range(lines)]


def test_an_untouched_log_holds_and_tells_its_head(tmp_path: Path) -> None:
    path = tmp_path / "log"
    hashes = written(path)
    found = verify(path, head=hashes[2])
    assert (found.lines, found.head) == (5, hashes[-1])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_no_byte_can_be_changed_unseen(tmp_path: Path, at: int, byte: int) -> None:
    path = tmp_path / "log"
    if not path.exists():
        written(path, 3)
    data = bytearray(path.read_bytes())
    place = at % len(data)
    changed = data[place] != byte
    data[place] = byte
    edited = tmp_path / "edited"
    edited.write_bytes(data)
    if changed:
        with pytest.raises(AuditBroken):
            verify(edited)
    else:
        assert verify(edited).lines == 3


@pytest.mark.parametrize("order", [[0, 2, 3, 4], [1, 2, 3, 4], [0, 2, 1, 3, 4], [0, 0, 1, 2]])
def test_removed_moved_and_repeated_lines_show(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "log"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[n] for n in order))
    with pytest.raises(AuditBroken, match="does not follow the one before it"):
        verify(path)


def test_a_rewritten_line_shows_even_with_a_hash_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path)
    lines = path.read_text().splitlines()
    record = json.loads(lines[2])
    record["actor"] = "user:eve"
    record["hash"] = chained(record)
    lines[2] = json.dumps(record, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AuditBroken, match="line 4"):
        verify(path)


def test_an_end_cut_off_shows_to_whoever_kept_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "log"
    hashes = written(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert verify(path).lines == 3  # a chain alone cannot show it
    with pytest.raises(AuditBroken, match="its end was cut off"):
        verify(path, head=hashes[-1])


def test_nothing_is_chained_to_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AuditBroken, match="the newest line"):
        AuditLog(path).append(actor="a", action="b", subject="c")


def test_several_writers_keep_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "log"
    threads = [threading.Thread(target=written, args=(path, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path).lines == 40


def test_the_command_says_yes_or_where_it_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    hashes = written(path)
    assert main(["audit", "verify", str(path)]) == EXIT_DONE
    assert hashes[-1] in capsys.readouterr().out
    path.write_text(path.read_text().replace("ann", "eve", 1))
    assert main(["audit", "verify", str(path)]) == EXIT_REFUSED
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize("taken", [0, 1, 40])
def test_a_line_that_a_full_disk_takes_in_part_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    path = tmp_path / "log"
    hashes = written(path, 2)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, line: write(file, line[:taken]))
        with pytest.raises(AuditBroken, match="No space left"):
            written(path, 1)
    assert verify(path).head == hashes[-1]
    written(path, 1)
    assert verify(path).lines == 3


def test_a_log_that_cannot_be_opened_is_one_typed_error(tmp_path: Path) -> None:
    with pytest.raises(AuditBroken, match="cannot write to"):
        written(tmp_path, 1)  # a folder

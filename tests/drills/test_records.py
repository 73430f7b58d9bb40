"""The raw log: what is written is read back; what is damaged is refused by line."""

from __future__ import annotations

import dataclasses

import logs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_drills.errors import BadLog
from tierline_drills.records import (
    EVENTS,
    EXPERIMENT,
    Belief,
    Call,
    Count,
    Event,
    Log,
    Tried,
    read_log,
    write_line,
)

seconds = st.integers(0, 10**10).map(lambda micros: round(micros / 1e6, 6))
shares = st.integers(0, 1000).map(lambda value: value / 1000)
words = st.text(max_size=12)
attempts = st.builds(Tried, st.integers(1, 9), words, words, words, seconds, seconds, words)
calls = st.builds(
    Call,
    st.sampled_from([EXPERIMENT, "control"]),
    st.integers(0, 3),
    st.integers(0, 10**6),
    seconds,
    seconds,
    tier=words,
    quality=words,
    reason=words,
    bundle=words,
    error=words,
    wrong=words,
    gain=shares,
    full_gain=shares,
    attempts=st.lists(attempts, max_size=2).map(tuple),
)
events = st.builds(Event, seconds, st.sampled_from(sorted(EVENTS)), words, st.just(("edge-1",)))
beliefs = st.builds(Belief, words, st.integers(0, 3), seconds, words, words, st.booleans())
counts = st.builds(Count, words, seconds)


def written(log: Log) -> list[str]:
    entries = [log.drill, *log.calls, *log.beliefs, *log.events, *log.counts]
    return [write_line(entry) + "\n" for entry in entries]


@given(
    st.lists(calls, max_size=3),
    st.lists(beliefs, max_size=3),
    st.lists(events, max_size=3),
    st.lists(counts, max_size=3),
)
def test_a_log_written_is_the_log_read(
    some: list[Call], believed: list[Belief], happened: list[Event], counted: list[Count]
) -> None:
    log = Log(logs.DRILL, some, believed, happened, counted).sort()
    read = read_log(written(log))
    assert dataclasses.asdict(read) == dataclasses.asdict(log)


@given(st.text())
def test_text_that_is_no_log_is_refused_by_line(text: str) -> None:
    with pytest.raises(BadLog, match="line"):
        read_log(text.splitlines(keepends=True))


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    lines = written(logs.crash())
    assert len(read_log([*lines[:-1], lines[-1][:20]]).events) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"type":"call","group":"experiment"}', "is no call"),
        ('{"type":"event","at":1.0,"kind":"earthquake","label":"x"}', "no event is called"),
        ('{"type":"belief","group":"x","client":0,"at":"soon","endpoint":"e","breaker":"open",'
         '"out":false}', "at must be float"),
        ('{"type":"wish"}', "known: drill, call"),
        ("[1]", "must be an object"),
        ("{,}", "is no JSON"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(line: str, why: str) -> None:
    with pytest.raises(BadLog, match=why) as refused:
        read_log([write_line(logs.DRILL) + "\n", line + "\n", "\n"])
    assert "line 2" in str(refused.value)


def test_a_log_without_its_head_is_refused() -> None:
    with pytest.raises(BadLog, match="before the line of type 'drill'"):
        read_log([write_line(logs.call(1, 0.0)) + "\n"])

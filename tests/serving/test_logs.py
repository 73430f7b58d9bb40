"""A node's log: one line an event, with the fields the event was given, in text or in JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_serving.logs import Form, JsonLines, TextLines, write_log


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("tierline")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def _said(form: Form) -> str:
    stream = io.StringIO()
    write_log(stream, form)
    logging.getLogger("tierline.serving").info(
        "registry watched", extra={"model": "ranker", "bundle": "1-ab"}
    )
    logging.getLogger("somebody.else").info("chatter")
    return stream.getvalue()


def test_a_json_line_carries_the_time_the_level_and_the_events_own_fields() -> None:
    line = json.loads(_said("json"))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "tierline.serving",
        "message": "registry watched",
        "model": "ranker",
        "bundle": "1-ab",
    }


def test_a_text_line_says_the_same_to_people() -> None:
    line = _said("text")
    assert line.count("\n") == 1
    assert "INFO tierline.serving: registry watched (model='ranker' bundle='1-ab')" in line


def test_other_libraries_are_heard_from_warnings_up_only() -> None:
    stream = io.StringIO()
    write_log(stream, "json", "debug")
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("somebody.else").warning("trouble")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["trouble"]


def test_an_exception_is_a_field_of_its_event() -> None:
    stream = io.StringIO()
    write_log(stream, "json")
    try:
        raise ValueError("no such row")
    except ValueError:
        logging.getLogger("tierline.serving").exception("request failed")
    assert "ValueError: no such row" in json.loads(stream.getvalue())["exception"]


@given(said=st.text(), value=st.one_of(st.text(), st.binary(), st.floats(), st.none()))
def test_whatever_is_said_stays_one_line_that_can_be_read_again(said: str, value: object) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (said,), "name": "tierline.x"})
    record.request = value
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == said
    assert "\n" not in TextLines().format(record)

"""How a node's log is written: one line an event, as text or as JSON, to standard error."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, get_args

Form = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

# What every record has; anything beyond was given as `extra` and is a field of its own.
_USUAL: Final = frozenset(
    (*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName")
)


def write_log(stream: TextIO, form: Form = "text", level: Level = "info") -> None:
    """From now on, what Tierline's loggers say from ``level`` up is written to ``stream``; other
    libraries are heard from warnings up. A handler that was there is replaced."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("tierline").setLevel(level.upper())


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Fields that JSON does not know are written as their text."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """The same for people: ``time LEVEL logger: message (field=value …)``, a stack below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Line ends in what was said are escaped: one event, one line."""
        said = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        fields = " ".join(f"{name}={value!r}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {said}"
        line += f" ({fields})" if fields else ""
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name not in _USUAL}

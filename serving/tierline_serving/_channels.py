"""Where a channel points and where it pointed before: pure moves, and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from tierline import ConfigurationError
from tierline_serving._fields import (
    Fields,
    array_of,
    canonical_json,
    integer,
    one_of,
    parse_json,
    refuse,
    text,
)
from tierline_serving._fields import name as name_field

FORMAT: Final = 1
MAX_MOVES: Final = 1000  # older moves are forgotten; nobody rolls back that far


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of a channel: which bundle folder it then named, when (UTC), and by what."""

    bundle: str
    at: str
    action: str  # "publish" | "promote" | "roll-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A model's channel. ``stack`` is what it names (last) above what a roll-back returns to."""

    model: str
    channel: str
    stack: tuple[str, ...]
    history: tuple[Move, ...]

    @property
    def current(self) -> str:
        """The bundle folder that the channel names."""
        return self.stack[-1]

    def moved(self, bundle: str, at: str, action: str) -> Channel:
        """The channel naming another bundle; the same one again changes nothing."""
        if self.stack and self.current == bundle:
            return self
        return self._after(
            (*self.stack, bundle)[-MAX_MOVES:], Move(bundle=bundle, at=at, action=action)
        )

    def rolled_back(self, at: str) -> Channel:
        """The channel naming what it named before. Raises ConfigurationError at the bottom."""
        if len(self.stack) < 2:
            raise ConfigurationError(
                f"{self.model}/{self.channel} names its first bundle; there is none to return to"
            )
        stack = self.stack[:-1]
        return self._after(stack, Move(bundle=stack[-1], at=at, action="roll-back"))

    def to_bytes(self) -> bytes:
        """The channel file."""
        return canonical_json(
            {
                "format": FORMAT,
                "model": self.model,
                "channel": self.channel,
                "stack": list(self.stack),
                "history": [asdict(move) for move in self.history],
            }
        )

    @classmethod
    def parse(cls, data: bytes, what: str) -> Channel:
        """Read a channel file. Raises BundleRefused naming the field."""
        fields = Fields(parse_json(data, what), what)
        fields.need("format", integer(FORMAT, FORMAT))
        channel = cls(
            model=fields.need("model", name_field),
            channel=fields.need("channel", name_field),
            stack=fields.need("stack", array_of(text)),
            history=fields.need("history", array_of(_read_move)),
        )
        fields.finish()
        if not channel.stack:
            refuse(f"{what}.stack", "names no bundle")
        return channel

    def _after(self, stack: tuple[str, ...], move: Move) -> Channel:
        history = (*self.history, move)[-MAX_MOVES:]
        return Channel(model=self.model, channel=self.channel, stack=stack, history=history)


def _read_move(value: object, path: str) -> Move:
    fields = Fields(value, path)
    move = Move(
        bundle=fields.need("bundle", text),
        at=fields.need("at", text),
        action=fields.need("action", one_of(("publish", "promote", "roll-back"))),
    )
    fields.finish()
    return move

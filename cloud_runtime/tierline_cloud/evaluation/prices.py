"""What a thousand calls cost at any share of escalation, from a price file."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from tierline import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of one call, in any one currency.

    cost(e) = edge_call + e · (cloud_call + seconds_waited · per_second + bytes_sent · per_byte):
    every call is scored at the edge, a share e also in the cloud, for which its caller waits and
    bytes travel. Source: the cost model of docs/quality.md.
    """

    currency: str = "units"
    edge_call: float = 0.0
    cloud_call: float = 1.0
    seconds_waited: float = 0.0
    per_second: float = 0.0
    bytes_sent: float = 0.0
    per_byte: float = 0.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "currency"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigurationError(f"must be zero or more, got {value}", key=name)
        if not self.escalated > 0:
            raise ConfigurationError("an escalation must cost something", key="cloud_call")

    @property
    def escalated(self) -> float:
        """What one escalation adds."""
        waited = self.seconds_waited * self.per_second
        return self.cloud_call + waited + self.bytes_sent * self.per_byte

    def per_thousand(self, escalation: float) -> float:
        """Of a thousand calls when this share of them is escalated."""
        return 1000 * (self.edge_call + escalation * self.escalated)

    @property
    def cloud_only(self) -> float:
        """Of a thousand calls that all go to the cloud, and to no edge."""
        return 1000 * self.escalated


def read_prices(path: Path) -> Prices:
    """The TOML file's prices. Raises ConfigurationError naming the key."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as missing:
        raise ConfigurationError(f"there is no file {path}", key="--prices") from missing
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
        raise ConfigurationError(f"{path} is not TOML: {bad}", key="--prices") from bad
    kinds = {field.name: field.type for field in fields(Prices)}
    for name, value in said.items():
        if name not in kinds:
            raise ConfigurationError(f"is no price; known: {', '.join(kinds)}", key=name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, str) if kinds[name] == "str" else number):
            raise ConfigurationError(f"must be a {kinds[name]}, got {value!r}", key=name)
    return Prices(**said)

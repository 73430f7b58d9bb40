"""TLS of a server: its certificate, and whose certificates its callers must show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tierline import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM. With ``client_ca`` only callers with a certificate of that authority are let
    in (mutual TLS). TLS 1.2 and later only. Raises ConfigurationError for a missing file."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        for name in ("certificate", "key", "client_ca"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise ConfigurationError(f"there is no file {path}", key=f"tls.{name}")

    @property
    def verifies_callers(self) -> bool:
        """Whether callers must show a certificate."""
        return self.client_ca is not None

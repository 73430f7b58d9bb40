"""Where a transport goes: the one origin its URL names."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from tierline._exceptions import ConfigurationError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXPECTED = "expected http://host:port, https://host:port or unix:///path/to/socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A TCP address (``host`` and ``port``) or a Unix socket (``path``); never both."""

    scheme: str  # "http" | "https" | "unix"
    host: str
    port: int = 0
    path: str = ""

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS.get(self.scheme, 0) else f"{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The same origin for a library that wants an HTTP URL."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read an endpoint's URL. Raises ConfigurationError for anything but an origin."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} is no URL ({error}); {_EXPECTED}") from error
        if parts.query or parts.fragment or parts.username is not None:
            raise ConfigurationError(
                f"{parts.scheme}://… must name an origin only, without user, query or fragment; "
                f"{_EXPECTED}"
            )
        if parts.scheme == "unix":
            if (
                parts.netloc
                or "\0" in parts.path
                or not parts.path.startswith("/")
                or len(parts.path) < 2
            ):
                raise ConfigurationError(f"{url!r} has no absolute socket path; {_EXPECTED}")
            return cls(scheme="unix", host="localhost", path=parts.path)
        if parts.scheme not in _DEFAULT_PORTS or not host or parts.path not in ("", "/"):
            raise ConfigurationError(f"{url!r} is no endpoint; {_EXPECTED}")
        if port == 0 or not host.isascii() or any(c <= " " for c in host):
            raise ConfigurationError(f"{url!r} names no reachable host and port; {_EXPECTED}")
        port = _DEFAULT_PORTS[parts.scheme] if port is None else port
        return cls(scheme=parts.scheme, host=host, port=port)

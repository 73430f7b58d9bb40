"""How a server listens, what it takes in and how it leaves: one frozen, validated value."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from tierline import ConfigurationError
from tierline_serving.access.tls import Tls
from tierline_serving.batching.batcher import BatchLimits

DEFAULT_PORT = 8101
DEFAULT_MAX_BODY_BYTES = 16 * 1024 * 1024  # the wire's own limit on a frame
DEFAULT_LAME_DUCK = 1.0  # longer than a client's or a balancer's readiness check takes to notice
DEFAULT_DRAIN = 10.0  # well inside the 30 s Kubernetes grants before it kills
DEFAULT_TIMEOUT = 10.0  # for a request that names no deadline
DEFAULT_MAX_TIMEOUT = 60.0  # nobody may hold a place in the queue longer
DEFAULT_READ_TIMEOUT = 10.0  # for a body that comes in pieces
DEFAULT_MAX_HELD_BYTES = 256 * 1024 * 1024  # sixteen requests of the largest size
DEFAULT_MAX_CONNECTIONS = 4096  # open at once; some 20 kB each
DEFAULT_WRITE_TIMEOUT = 30.0  # for a caller to read the answer that was written
DEFAULT_ROLLBACK_HOLD = 600.0  # long enough to see that a new bundle is no good
KEEP_ALIVE = 5  # the client's pool gives idle connections up sooner, so that none goes stale


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server process. Times are in seconds. Raises ConfigurationError.

    ``port`` 0 takes a free one, None listens on ``unix_socket`` only. Listening beyond this
    machine takes access control (``keys``, or ``tls`` that verifies callers), or ``allow_remote``
    to say that anybody is meant.
    """

    host: str = "127.0.0.1"
    port: int | None = DEFAULT_PORT
    unix_socket: Path | None = None
    allow_remote: bool = False
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    batch: BatchLimits = field(default_factory=BatchLimits)
    default_timeout: float = DEFAULT_TIMEOUT
    max_timeout: float = DEFAULT_MAX_TIMEOUT
    read_timeout: float = DEFAULT_READ_TIMEOUT
    write_timeout: float = DEFAULT_WRITE_TIMEOUT
    lame_duck: float = DEFAULT_LAME_DUCK
    drain: float = DEFAULT_DRAIN
    keys: Path | None = None  # the key file: with it every request but a probe needs a key
    audit: Path | None = None  # the log that loads and unloads are written to
    tls: Tls | None = None
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_held_bytes: int = DEFAULT_MAX_HELD_BYTES  # of large bodies being read or answered
    rollback_hold: float = DEFAULT_ROLLBACK_HOLD  # the bundle before stays in memory so long
    watch: float | None = None  # between looks at the registry; None: loads are asked for
    unload_first: bool = False  # what does not fit beside the old bundle takes its place

    def __post_init__(self) -> None:
        self._check_addresses()
        if self.max_body_bytes < 1:
            raise ConfigurationError(
                f"must be at least 1, got {self.max_body_bytes}", key="max_body_bytes"
            )
        if self.max_connections < 1:
            raise ConfigurationError(
                f"must be at least 1, got {self.max_connections}", key="max_connections"
            )
        if self.max_held_bytes < self.max_body_bytes:
            raise ConfigurationError(
                f"must be at least max_body_bytes ({self.max_body_bytes}), "
                f"got {self.max_held_bytes}",
                key="max_held_bytes",
            )
        for name in ("default_timeout", "max_timeout", "read_timeout", "write_timeout"):
            _check_seconds(name, getattr(self, name), above_zero=True)
        if self.watch is not None:
            _check_seconds("watch", self.watch, above_zero=True)
        for name in ("lame_duck", "drain", "rollback_hold"):
            _check_seconds(name, getattr(self, name), above_zero=False)
        if self.default_timeout > self.max_timeout:
            raise ConfigurationError(
                f"must be at most max_timeout ({self.max_timeout}), got {self.default_timeout}",
                key="default_timeout",
            )

    def _check_addresses(self) -> None:
        if self.port is None and self.unix_socket is None:
            raise ConfigurationError("give a port or a unix_socket to listen on", key="port")
        if self.tls is not None and self.unix_socket is not None:
            raise ConfigurationError(
                "a unix socket is reached by this machine only and carries no TLS; leave one out",
                key="unix_socket",
            )
        if self.port is None:
            return
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"must be from 0 to 65535, got {self.port}", key="port")
        if not (self.allow_remote or self.has_access_control or is_loopback(self.host)):
            raise ConfigurationError(
                f"{self.host!r} can be reached from other machines, and this server would trust "
                "whoever reaches it: give --keys or --tls-client-ca, or say --allow-remote if "
                "something in front controls access",
                key="host",
            )

    @property
    def has_access_control(self) -> bool:
        """Whether callers must show who they are: by a key, or by a certificate."""
        return self.keys is not None or (self.tls is not None and self.tls.verifies_callers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; names other than localhost count as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_seconds(name: str, value: float, *, above_zero: bool) -> None:
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        expected = "a positive number" if above_zero else "zero or a positive number"
        raise ConfigurationError(f"must be {expected} of seconds, got {value!r}", key=name)

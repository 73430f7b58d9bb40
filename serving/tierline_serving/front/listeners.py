"""The sockets an endpoint listens on: bound, named as URLs, emptied when it leaves."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Final

from tierline import ConfigurationError
from tierline_serving.settings import ServerSettings

_BACKLOG: Final = 2048


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Bind what the settings name. Raises ConfigurationError with the reason when it cannot."""
    sockets: list[socket.socket] = []
    try:
        if settings.port is not None:
            sockets.append(_listen_tcp(settings.host, settings.port))
        if settings.unix_socket is not None:
            sockets.append(_listen_unix(settings.unix_socket))
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def address(listener: socket.socket, *, tls: bool = False) -> str:
    """Where a bound socket is reached, as the URL a client is given."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"


def _listen_tcp(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        listener = socket.create_server((bare, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", key="port"
        ) from error
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()  # left behind by a process that was killed
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {path}: {error.strerror or error}", key="unix_socket"
        ) from error
    listener.setblocking(False)
    return listener


def accept_all(listener: socket.socket) -> list[socket.socket]:
    """Take what waits on a listener, and close it at once."""
    accepted: list[socket.socket] = []
    with listener:
        listener.setblocking(False)
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                break
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0

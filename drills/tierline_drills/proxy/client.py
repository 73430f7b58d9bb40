"""Asks a Toxiproxy (ours or the stock one) over its REST API."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

from tierline_drills.errors import DrillError

TIMEOUT = 5.0  # seconds for one request


class ProxyClient:
    """The proxies at one API address, ``host:port``. Safe from any thread."""

    def __init__(self, address: str) -> None:
        self._address = address

    def create(self, name: str, upstream: str, listen: str = "127.0.0.1:0") -> str:
        """Add a proxy; returns the ``host:port`` it listens on."""
        body = {"name": name, "upstream": upstream, "listen": listen, "enabled": True}
        return str(self._ask("POST", "/proxies", body)["listen"])

    def enable(self, name: str, *, enabled: bool) -> None:
        """Let a proxy listen, or take it down."""
        self._ask("POST", f"/proxies/{name}", {"enabled": enabled})

    def add(self, proxy: str, toxic: Mapping[str, Any]) -> None:
        """Add a toxic, as the API's JSON has it."""
        self._ask("POST", f"/proxies/{proxy}/toxics", dict(toxic))

    def remove(self, proxy: str, toxic: str) -> None:
        """Take one toxic away."""
        self._ask("DELETE", f"/proxies/{proxy}/toxics/{toxic}")

    def clear(self, proxy: str) -> None:
        """Take every toxic of a proxy away and let it listen."""
        for toxic in self._ask("GET", f"/proxies/{proxy}/toxics"):
            self.remove(proxy, toxic["name"])
        self.enable(proxy, enabled=True)

    def show(self) -> dict[str, Any]:
        """Every proxy with its toxics and the bytes it passed."""
        return dict(self._ask("GET", "/proxies"))

    def reset(self) -> None:
        """Enable every proxy, remove every toxic."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except OSError as error:
            raise DrillError(
                f"the chaos proxy at {self._address} does not answer: {error}"
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise DrillError(f"the chaos proxy refused {method} {path}: {answer.decode()}")
        return json.loads(answer) if answer else None

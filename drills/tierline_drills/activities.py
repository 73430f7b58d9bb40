"""Carries out one activity: a Python function, a process or an HTTP request."""

from __future__ import annotations

import importlib
import inspect
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from tierline_drills.errors import BadExperiment
from tierline_drills.experiment import Activity

HTTP_TIMEOUT = 30.0  # seconds, unless the provider says otherwise
PROCESS_TIMEOUT = 60.0


class Perform(Protocol):
    """Carries out an activity and returns what its provider gave back."""

    def __call__(self, activity: Activity, /) -> Any: ...


def perform(activity: Activity) -> Any:
    """Do it; returns the provider's value. Raises whatever the provider raised, BadExperiment when
    there is no such function."""
    provider = activity.provider
    arguments = provider.get("arguments") or {}
    match provider["type"]:
        case "python":
            return function_of(provider["module"], provider["func"])(**arguments)
        case "process":
            return _process(provider, arguments)
        case _:
            return _http(provider)


def function_of(module: str, name: str) -> Any:  # Any: a provider's function takes anything
    """The function an experiment names. Raises BadExperiment."""
    function = getattr(module_of(module), name, None)
    if function is None:
        raise BadExperiment(f"{module} has no function {name!r}")
    return function


def module_of(name: str) -> ModuleType:
    """The module an experiment names, imported. Raises BadExperiment."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadExperiment(f"there is no module {name!r}: {error}") from error


def call_with(function: Any, offered: Mapping[str, Any]) -> Any:
    """Call with those of the offered arguments that the function takes, as Chaos Toolkit does."""
    taken = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        return function(**offered)
    return function(**{name: value for name, value in offered.items() if name in taken})


def _process(provider: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, Mapping):
        extra = [str(part) for pair in arguments.items() for part in pair if part not in (None, "")]
    elif isinstance(arguments, str):
        extra = shlex.split(arguments)
    else:
        extra = [str(part) for part in arguments]
    done = subprocess.run(
        [provider["path"], *extra],
        capture_output=True,
        text=True,
        check=False,
        timeout=float(provider.get("timeout", PROCESS_TIMEOUT)),
    )
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _http(provider: Mapping[str, Any]) -> dict[str, Any]:
    timeout = provider.get("timeout", HTTP_TIMEOUT)
    seconds = float(max(timeout) if isinstance(timeout, list) else timeout)
    request = urllib.request.Request(
        provider["url"],
        method=provider.get("method", "GET"),
        headers={str(k): str(v) for k, v in (provider.get("headers") or {}).items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return _answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return _answer(error.code, error.headers, error.read())


def _answer(status: int, headers: Any, body: bytes) -> dict[str, Any]:
    return {
        "status": status,
        "headers": dict(headers.items()),
        "body": body.decode("utf-8", errors="replace"),
    }

"""Real cuts: a node in a network namespace of its own, whose cable can be pulled.

Needs root and a kernel with namespaces and veth; NotHere says what is missing. What is made is
named after this process, and taken down by ``close``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field

from tierline_drills.errors import DrillError, NotHere

TIMEOUT = 10.0  # seconds for one ip command
NETWORK = "10.213"  # /30 networks of ours, one a namespace: .1 is the host's side, .2 the node's


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """One node's namespace, and the cable to it."""

    name: str
    cable: str  # the host's end
    host: str  # the node's address

    def command(self, command: list[str]) -> list[str]:
        """The command line that runs in it."""
        return [_ip(), "netns", "exec", self.name, *command]

    def unplug(self) -> None:
        """Pull the cable: no byte, no RST, no ICMP."""
        _run("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put it back."""
        _run("link", "set", self.cable, "up")


@dataclass(slots=True)
class Namespaces:
    """Every namespace of this process."""

    made: list[Namespace] = field(default_factory=list)

    def make(self) -> Namespace:
        """A namespace with its cable up. Raises NotHere where the user may not."""
        if os.geteuid() != 0:
            raise NotHere("network namespaces need root; cut the node with the proxy instead")
        number = len(self.made)
        name, cable, inside = (f"tl{os.getpid()}{part}{number}" for part in ("n", "a", "b"))
        one = Namespace(name=name, cable=cable, host=f"{NETWORK}.{number}.2")
        try:
            _run("netns", "add", name)
            self.made.append(one)
            _run("link", "add", cable, "type", "veth", "peer", "name", inside)
            _run("link", "set", inside, "netns", name)
            _run("addr", "add", f"{NETWORK}.{number}.1/30", "dev", cable)
            one.plug()
            _run("-n", name, "addr", "add", f"{one.host}/30", "dev", inside)
            _run("-n", name, "link", "set", inside, "up")
            _run("-n", name, "link", "set", "lo", "up")
        except DrillError as error:
            self.close()
            raise NotHere(f"this kernel or container allows no namespaces: {error}") from error
        return one

    def close(self) -> None:
        """Take every namespace down; its cable goes with it."""
        while self.made:
            gone = self.made.pop()
            command = [_ip(), "netns", "delete", gone.name]
            subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT)


def _ip() -> str:
    found = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if found is None:
        raise NotHere("network namespaces need the command `ip` (package iproute2)")
    return found


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [_ip(), *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    if done.returncode != 0:
        raise DrillError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

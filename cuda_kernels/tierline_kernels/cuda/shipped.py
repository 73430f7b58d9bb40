"""Finds the machine code the package was built with; refuses what is stale or damaged.

A wheel's build writes a folder ``cubins`` beside this file: an index and one cubin for each kernel
and device generation. The index names the sources it was made from and every cubin by their hash.
Code that does not fit them is never launched: kernels are then compiled on first use, and the log
says so once. Nothing here imports a compiler.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

log = logging.getLogger("tierline.kernels")

# The modules a kernel's machine code depends on.
SOURCES = (
    "catalogue.py", "intrinsics.py", "quantize.py", "retrieve.py", "rows.py", "select.py",
    "tensor.py",
)  # fmt: skip
INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Cubin:
    """One file of machine code: the kernel's symbol in it, and the hash of its bytes."""

    symbol: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """What a folder holds: cubins by place (``sm_90/check.cubin``), sources' hash, tools."""

    source: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    cubins: Mapping[str, Cubin] = field(default_factory=dict)

    def to_json(self) -> str:
        """The index's text; the same for the same machine code."""
        cubins = {place: [each.symbol, each.sha256] for place, each in self.cubins.items()}
        told = {"source": self.source, "tools": dict(self.tools), "cubins": cubins}
        return json.dumps(told, indent=1, sort_keys=True)


def parse_index(text: str) -> Index:
    """The inverse of ``Index.to_json``. Raises ValueError for anything else."""
    try:
        told = json.loads(text)
        cubins = {
            place: Cubin(symbol, digest) for place, (symbol, digest) in told["cubins"].items()
        }
        return Index(str(told["source"]), dict(told["tools"]), cubins)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"the index of machine code lacks {problem}") from problem


def source_hash(package: Traversable | None = None) -> str:
    """The hash of the kernels' sources as they are now."""
    folder = package or files("tierline_kernels.cuda")
    total = sha256()
    for name in SOURCES:
        total.update(name.encode() + b"\0" + folder.joinpath(name).read_bytes() + b"\0")
    return total.hexdigest()


def folder() -> Traversable:
    """Where the machine code lies, if there is any."""
    return files("tierline_kernels.cuda").joinpath("cubins")


@cache
def index() -> Index:
    """The index of this package's machine code; empty where there is none or it is stale."""
    place = folder().joinpath(INDEX)
    if not place.is_file():
        return Index()
    try:
        found = parse_index(place.read_text("utf-8"))
    except ValueError as problem:
        log.warning("machine code refused, kernels are compiled on first use: %s.", problem)
        return Index()
    if found.source != source_hash():
        log.warning(
            "machine code refused, kernels are compiled on first use: it was built from other "
            "sources than these; build the wheel anew."
        )
        return Index()
    return found


def place_of(name: str, capability: tuple[int, int]) -> str | None:
    """Which cubin runs on a device: one of its generation and not newer than it, if any."""
    major, minor = capability
    for step in range(minor, -1, -1):
        place = f"sm_{major}{step}/{name}.cubin"
        if place in index().cubins:
            return place
    return None


def load(name: str, capability: tuple[int, int]) -> tuple[bytes, str] | None:
    """A kernel's machine code and symbol; None where the package holds none that fits."""
    place = place_of(name, capability)
    if place is None:
        return None
    cubin = index().cubins[place]
    file = folder().joinpath(*place.split("/"))
    code = file.read_bytes() if file.is_file() else b""
    if sha256(code).hexdigest() != cubin.sha256:
        log.warning("machine code refused, %s is compiled now: %s is damaged.", name, place)
        return None
    return code, cubin.symbol

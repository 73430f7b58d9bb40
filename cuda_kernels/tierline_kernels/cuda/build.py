"""Builds every kernel to machine code without a GPU, and refuses what would be slow or wrong."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import rmtree
from typing import Any

from tierline_kernels.cuda import catalogue, shipped
from tierline_kernels.cuda.catalogue import Kernel
from tierline_kernels.errors import BackEndMissing

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# Machine code runs on later devices of its generation: these cover all of the above.
SHIPPED = ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0))
TOOLS = ("numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink")
TOOLKIT = "13.0."  # a newer compiler writes PTX that an older linker or driver refuses
NO_TOOLCHAIN = 3  # exit status
# PTX that must not appear: double arithmetic, and loads that lost the global address space.
_DOUBLE = re.compile(r"\b(?:add|mul|fma|div|sub)\.(?:rn\.)?f64|cvt\.\w*\.?f64")
_GENERIC = re.compile(r"\bld(?:\.v[24])?\.(?:[usbf]\d+)\s")
_WIDE = re.compile(r"\bld\.global(?:\.nc)?\.v4\.")
_ENTRY = re.compile(r"\.visible \.entry (\w+)\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Build:
    """One kernel as the linker reported it."""

    name: str
    symbol: str
    capability: tuple[int, int]
    registers: int
    spilled: int  # bytes stored to and loaded from local memory
    stack: int  # bytes of local memory besides
    wide_loads: int
    parameters: tuple[str, ...]  # types of the entry's parameters, in PTX's words
    problems: tuple[str, ...]
    cubin: bytes


def toolchain() -> Any:
    """The compile function and linker of the wheels; BackEndMissing says which are absent."""
    try:
        core = import_module("cuda.core")
        import_module("numba.cuda.cudadrv.nvvm").NVVM()
        return import_module("numba.cuda").compile, core
    except Exception as problem:  # each wheel fails in its own way when it is absent
        raise BackEndMissing(
            f"kernels cannot be compiled here ({problem}); install numba-cuda[cu13] and "
            "cuda-toolkit==13.0.*."
        ) from problem


@cache
def to_ptx(kernel: Kernel) -> str:
    """The kernel's PTX for the oldest capability it runs on; any later one assembles it."""
    compile_, _ = toolchain()
    ptx, _ = compile_(
        kernel.make(), kernel.signature, device=False, cc=kernel.since, output="ptx", abi="numba"
    )
    return str(ptx)


def build(kernel: Kernel, capability: tuple[int, int]) -> Build:
    """Compile one kernel and check what came out."""
    _, core = toolchain()
    ptx = to_ptx(kernel)
    arch = f"sm_{capability[0]}{capability[1]}"
    # A kernel that needs more must spill to keep within, and spills are refused.
    options = core.LinkerOptions(
        arch=arch, ptxas_options=["-v"], max_register_count=kernel.registers
    )
    job = core.Linker(core.ObjectCode.from_ptx(ptx.encode()), options=options)
    cubin = bytes(job.link("cubin").code)
    log = str(job.get_info_log())
    registers = _number(r"Used (\d+) registers", log)
    spilled = _number(r"(\d+) bytes spill stores", log) + _number(r"(\d+) bytes spill loads", log)
    stack = _number(r"(\d+) bytes stack frame", log)
    entry = _ENTRY.search(ptx)
    if entry is None:
        raise BackEndMissing(f"{kernel.name}: the compiler wrote no entry; unknown version.")
    parameters = tuple(re.findall(r"\.param (?:\.align \d+ )?\.(\w+)", entry[2]))
    problems = {
        # What a launch passes: pointers and integers, all of 64 bits, one for each argument.
        f"parameters {parameters}": parameters != ("u64",) * len(kernel.signature.args),
        f"{spilled} bytes spilled": spilled > 0,
        f"{stack} bytes of stack": stack > 0,
        f"{registers} registers, {kernel.registers} allowed": registers > kernel.registers,
    }
    found = [text for text, wrong in problems.items() if wrong]
    found += problems_in_ptx(ptx, wide=kernel.wide, tensor=kernel.tensor)
    return Build(
        kernel.name, entry[1], capability, registers, spilled, stack, len(_WIDE.findall(ptx)),
        parameters, tuple(found), cubin,
    )  # fmt: skip


def problems_in_ptx(ptx: str, *, wide: bool, tensor: bool = False) -> list[str]:
    """What the gate refuses in a kernel's PTX; ``wide`` asks for 16-byte loads, ``tensor`` for
    tensor cores."""
    problems = {
        "no 16-byte load": wide and not _WIDE.search(ptx),
        "no tensor core": tensor and "mma.sync.aligned.m16n8k32" not in ptx,
        "double arithmetic": bool(_DOUBLE.search(ptx)),
        "generic loads": bool(_GENERIC.search(ptx)),
    }
    return [text for text, wrong in problems.items() if wrong]


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise BackEndMissing(f"the linker's report lacks {pattern!r}; its version is unknown here.")
    return int(match[1])


def tools() -> dict[str, str]:
    """The versions that decide what machine code comes out. Raises BackEndMissing when one is
    absent, or when compiler and linker are not of the pinned toolkit."""
    try:
        found = {tool: version(tool) for tool in TOOLS}
    except PackageNotFoundError as problem:
        raise BackEndMissing(
            f"{problem.name} is not installed; install tierline[cuda]."
        ) from problem
    for tool in ("nvidia-nvvm", "nvidia-nvjitlink"):
        if not found[tool].startswith(TOOLKIT):
            raise BackEndMissing(
                f"{tool} is {found[tool]}; machine code is built with {TOOLKIT}*, so that the "
                "drivers in use take it. Install tierline[cuda]."
            )
    return found


def is_fresh(folder: Path, capabilities: Sequence[tuple[int, int]]) -> bool:
    """Whether a folder holds what a build for these capabilities would write now."""
    if not (folder / shipped.INDEX).is_file():
        return False
    try:
        found = shipped.parse_index((folder / shipped.INDEX).read_text("utf-8"))
    except ValueError:
        return False
    wanted = {
        place(kernel.name, each)
        for each in capabilities
        for kernel in catalogue.kernels()
        if each >= kernel.since
    }
    whole = all(
        (folder / at).is_file() and sha256((folder / at).read_bytes()).hexdigest() == cubin.sha256
        for at, cubin in found.cubins.items()
    )
    now = (shipped.source_hash(), tools())
    return whole and wanted == set(found.cubins) and now == (found.source, found.tools)


def place(name: str, capability: tuple[int, int]) -> str:
    """Where a folder of machine code holds a kernel."""
    return f"sm_{capability[0]}{capability[1]}/{name}.cubin"


def write(folder: Path, built: Sequence[Build]) -> None:
    """Machine code by capability and name, and an index of hashes; what was there is replaced."""
    if folder.exists():
        rmtree(folder)
    cubins = {}
    for each in built:
        at = place(each.name, each.capability)
        (folder / at).parent.mkdir(parents=True, exist_ok=True)
        (folder / at).write_bytes(each.cubin)
        cubins[at] = shipped.Cubin(each.symbol, sha256(each.cubin).hexdigest())
    index = shipped.Index(shipped.source_hash(), tools(), cubins)
    (folder / shipped.INDEX).write_text(index.to_json(), "utf-8")


def compile_all(
    capabilities: Sequence[tuple[int, int]], widths: tuple[int, ...]
) -> Iterator[Build]:
    """Every kernel for every capability it runs on."""
    for capability in capabilities:
        for kernel in catalogue.kernels(widths):
            if capability >= kernel.since:
                yield build(kernel, capability)


def describe(made: Build) -> str:
    """One line about a kernel."""
    major, minor = made.capability
    problems = "; " + ", ".join(made.problems) if made.problems else ""
    return (
        f"{major}.{minor} {made.name}: {made.registers} registers, {made.spilled} B spilled, "
        f"{made.wide_loads} wide loads, {len(made.cubin)} B{problems}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when a kernel has a problem, 3 when the toolchain is not here."""
    parser = argparse.ArgumentParser(prog="python -m tierline_kernels.cuda.build")
    parser.add_argument("--capability", action="append", metavar="9.0")
    parser.add_argument("--width", action="append", type=int)
    parser.add_argument("--out", type=Path, help="write machine code here (default: only check)")
    parser.add_argument("--quiet", action="store_true", help="print only kernels with problems")
    parser.add_argument("--json", action="store_true", help="print the sum as JSON")
    options = parser.parse_args(argv)
    asked = [_capability(text) for text in options.capability or ()]
    capabilities = asked or list(SHIPPED if options.out else CAPABILITIES)
    try:
        if options.out and not options.width and is_fresh(options.out, capabilities):
            sys.stdout.write(f"the machine code in {options.out.name} is up to date\n")
            return 0
        if options.out:
            tools()
        built = []
        for made in compile_all(capabilities, tuple(options.width or catalogue.WIDTHS)):
            built.append(made)
            if made.problems or not options.quiet:
                (sys.stderr if options.json else sys.stdout).write(describe(made))
    except BackEndMissing as problem:
        sys.stdout.write(f"{problem}\n")
        return NO_TOOLCHAIN
    failed = sum(bool(made.problems) for made in built)
    if options.out and not failed:
        write(options.out, built)
    told = {"kernels": len(built), "problems": failed}
    said = f"{len(built)} kernels, {failed} with problems"
    sys.stdout.write(f"{json.dumps(told) if options.json else said}\n")
    return 1 if failed else 0


def _capability(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


if __name__ == "__main__":
    sys.exit(main())

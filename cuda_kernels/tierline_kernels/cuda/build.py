"""Builds every kernel to machine code without a GPU, and refuses what would be slow or wrong."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tierline_kernels.cuda import catalogue
from tierline_kernels.cuda.catalogue import Kernel
from tierline_kernels.errors import BackEndMissing

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# Machine code runs on later devices of its generation: these cover all of the above.
SHIPPED = ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0))
TOOLS = ("numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink")
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
    problems = {
        f"{spilled} bytes spilled": spilled > 0,
        f"{stack} bytes of stack": stack > 0,
        f"{registers} registers, {kernel.registers} allowed": registers > kernel.registers,
    }
    found = [text for text, wrong in problems.items() if wrong]
    found += problems_in_ptx(ptx, wide=kernel.wide, tensor=kernel.tensor)
    return Build(
        kernel.name, entry[1], capability, registers, spilled, stack, len(_WIDE.findall(ptx)),
        tuple(re.findall(r"\.param (?:\.align \d+ )?\.(\w+)", entry[2])), tuple(found), cubin,
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


def write(folder: Path, built: list[Build]) -> None:
    """Machine code by capability and name, and an index that says with which tools."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"tools": {tool: version(tool) for tool in TOOLS}, "kernels": {}}
    for each in built:
        place = f"sm_{each.capability[0]}{each.capability[1]}/{each.name}.cubin"
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(each.cubin)
        index["kernels"][place] = each.symbol
    (folder / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True), "utf-8")


def main(argv: list[str] | None = None) -> int:
    """Build all kernels for all capabilities; exit status 1 when one has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tierline_kernels.cuda.build")
    parser.add_argument("--capability", action="append", metavar="9.0")
    parser.add_argument("--width", action="append", type=int)
    parser.add_argument("--out", type=Path, help="write machine code here (default: only check)")
    options = parser.parse_args(argv)
    asked = [tuple(int(part) for part in text.split(".")) for text in options.capability or ()]
    built = []
    for major, minor in asked or (SHIPPED if options.out else CAPABILITIES):
        for kernel in catalogue.kernels(tuple(options.width or catalogue.WIDTHS)):
            if (major, minor) < kernel.since:
                continue
            made = build(kernel, (major, minor))
            built.append(made)
            sys.stdout.write(
                f"{major}.{minor} {made.name}: {made.registers} registers, {made.spilled} B "
                f"spilled, {made.wide_loads} wide loads, {len(made.cubin)} B"
                f"{'; ' + ', '.join(made.problems) if made.problems else ''}\n"
            )
    failed = sum(bool(made.problems) for made in built)
    if options.out and not failed:
        write(options.out, built)
    sys.stdout.write(f"{len(built)} kernels, {failed} with problems\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

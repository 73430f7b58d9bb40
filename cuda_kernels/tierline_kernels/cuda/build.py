"""Builds every kernel to machine code without a GPU, and reads what the compiler made of it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tierline_kernels.errors import BackEndMissing

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
WIDTHS = (32, 64, 128, 256)
# PTX that must not appear: double arithmetic, and loads that lost the global address space.
_DOUBLE = re.compile(r"\b(?:add|mul|fma|div|sub)\.(?:rn\.)?f64|cvt\.\w*\.?f64")
_GENERIC = re.compile(r"\bld(?:\.v[24])?\.(?:[usbf]\d+)\s")
_WIDE = re.compile(r"\bld\.global(?:\.nc)?\.v4\.")
REGISTERS_MOST = {"bag": 96, "dot": 128, "keys": 64, "sort": 64}


@dataclass(frozen=True, slots=True)
class Build:
    """One kernel as the linker reported it."""

    name: str
    capability: tuple[int, int]
    registers: int
    spilled: int  # bytes stored to and loaded from local memory
    wide_loads: int
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


def kernels(widths: tuple[int, ...] = WIDTHS) -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, function, signature and whether 16-byte loads are expected, for each kernel."""
    from tierline_kernels.cuda import rows, select

    for kind in rows.ENTRIES:
        for d in widths:
            for weighted in (False, True):
                made = rows.make_bag(
                    kind, d, mean=weighted, weighted=weighted, biased=kind == "int8", pieces=True
                )
                name = f"bag_{kind}_{d}{'_weighted' if weighted else ''}"
                yield name, made, rows.bag_signature(kind), True
            for ruled in (False, True):
                made = select.make_dot(
                    kind, d, keep="list", biased=False, filtered=ruled, excluding=ruled,
                    boosted=ruled, pieces=select.lanes_per_row(kind, d) > 0,
                )  # fmt: skip
                wide = select.lanes_per_row(kind, d) > 0
                yield (
                    f"dot_{kind}_{d}{'_ruled' if ruled else ''}",
                    made,
                    select.dot_signature(kind),
                    wide,
                )
        odd = rows.make_bag(kind, 50, mean=True, weighted=True, biased=False, pieces=False)
        yield f"bag_{kind}_columns", odd, rows.bag_signature(kind), False
    for keep in ("list", "all"):
        made = select.make_keys(keep=keep, masked=True, largest=True, nan_first=False)
        yield f"keys_{keep}", made, select.KEYS_SIGNATURE, False
    for chunk in (64, 2048):
        yield f"sort_{chunk}", select.make_sort(chunk), select.SORT_SIGNATURE, False


def build(
    name: str, function: Any, signature: Any, wide: bool, capability: tuple[int, int]
) -> Build:
    """Compile one kernel and check what came out."""
    compile_, core = toolchain()
    ptx, _ = compile_(function, signature, device=False, cc=capability, output="ptx", abi="numba")
    arch = f"sm_{capability[0]}{capability[1]}"
    options = core.LinkerOptions(arch=arch, ptxas_options=["-v"])
    job = core.Linker(core.ObjectCode.from_ptx(ptx.encode()), options=options)
    cubin = bytes(job.link("cubin").code)
    log = str(job.get_info_log())
    registers = int(_first(r"Used (\d+) registers", log))
    spilled = int(_first(r"(\d+) bytes spill stores", log)) + int(
        _first(r"(\d+) bytes spill loads", log)
    )
    wide_loads = len(_WIDE.findall(ptx))
    most = REGISTERS_MOST[name.partition("_")[0]]
    problems = {
        f"{spilled} bytes spilled": spilled > 0,
        f"{registers} registers, {most} allowed": registers > most,
    }
    found = [text for text, wrong in problems.items() if wrong] + problems_in_ptx(ptx, wide=wide)
    return Build(name, capability, registers, spilled, wide_loads, tuple(found), cubin)


def problems_in_ptx(ptx: str, *, wide: bool) -> list[str]:
    """What the gate refuses in a kernel's PTX; ``wide`` asks for 16-byte loads."""
    problems = {
        "no 16-byte load": wide and not _WIDE.search(ptx),
        "double arithmetic": bool(_DOUBLE.search(ptx)),
        "generic loads": bool(_GENERIC.search(ptx)),
    }
    return [text for text, wrong in problems.items() if wrong]


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise BackEndMissing(f"the linker's report lacks {pattern!r}; its version is unknown here.")
    return match.group(1)


def main(argv: list[str] | None = None) -> int:
    """Build all kernels for all capabilities; exit status 1 when one has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tierline_kernels.cuda.build")
    parser.add_argument("--capability", action="append", metavar="9.0")
    parser.add_argument("--width", action="append", type=int)
    options = parser.parse_args(argv)
    asked = [tuple(int(part) for part in text.split(".")) for text in options.capability or ()]
    widths = tuple(options.width or WIDTHS)
    failed = 0
    for capability in asked or CAPABILITIES:
        for name, function, signature, wide in kernels(widths):
            made = build(name, function, signature, wide, (capability[0], capability[1]))
            failed += bool(made.problems)
            sys.stdout.write(
                f"{made.capability} {name}: {made.registers} registers, {made.spilled} B spilled, "
                f"{made.wide_loads} wide loads, {len(made.cubin)} B"
                f"{'; ' + ', '.join(made.problems) if made.problems else ''}\n"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds, checks and times every CUDA operation: ``python benchmarks/gpu/run.py --json FILE``.

Bandwidth is a ratio to a device copy measured in the same run. Kernel time is a graph replay
between two events; call time is what the host spends on putting the operation on its stream.
Without a GPU: ``NUMBA_ENABLE_CUDASIM=1 python benchmarks/gpu/run.py`` runs tiny sizes in the
simulator and says so; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import cases
import clock
import peers
import recommend
from cases import FULL, TINY, Case, Sizes

from tierline_kernels import BackEndMissing
from tierline_kernels.cuda.device import DeviceTable
from tierline_kernels.cuda.driver import Driver, Simulator, default_driver

MINUTES = 8.0
BATCH_TARGETS = {1: 0.85, 8: 0.70, 32: 0.50}
PACKAGES = ("numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "numpy", "torch", "jax")


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table; ratios above 1 mean faster than the peer."""

    case: str
    size: str
    kernel_us: float
    call_us: float
    replay_us: float
    spread: float
    of_copy: float
    target: float | None
    peers_us: dict[str, float]
    times_peer: dict[str, float]
    peer_targets: dict[str, float]

    @property
    def short(self) -> list[str]:
        """What this row was to reach and did not, or could not be measured."""
        found = []
        if self.target is not None and not self.of_copy >= self.target:
            found.append(f"{self.of_copy:.2f} of copy, {self.target} wanted")
        for peer, wanted in self.peer_targets.items():
            reached = self.times_peer.get(peer)
            if reached is None or reached < wanted:
                found.append(f"{peer}: {reached and round(reached, 2)}x, {wanted}x wanted")
        return found


def all_cases(driver: Driver, sizes: Sizes) -> Iterator[Case]:
    """Every operation and variant; inputs are made when a case's turn comes."""
    wide = 128 if sizes is FULL else 16
    for kind, target in (("float32", 0.85), ("float16", 0.85), ("int8", 0.75)):
        yield cases.bag_case(driver, sizes, kind, wide, target)
    yield cases.bag_case(driver, sizes, "int8", wide // 2, 0.60)
    yield cases.bag_case(driver, sizes, "int8", wide // 4 if sizes is FULL else wide, 0.50)
    yield cases.bag_case(driver, sizes, "int8", wide, 0.75, zipf=True)
    for (rows, n), target in zip(sizes.selections, (0.50, 0.70), strict=True):
        yield cases.selection_case(driver, rows, n, sizes, target)
    d = 128 if sizes is FULL else 64
    host = cases.make_table(cases.np.random.default_rng(0), "int8", sizes.items, d)
    table = DeviceTable(driver, host)
    for batch in sizes.batches:
        yield cases.retrieval_case(driver, table, host, batch, sizes, BATCH_TARGETS.get(batch))
    yield from recommend.recommend_cases(driver, table, host, sizes)


def result_of(driver: Driver, case: Case, copy: float, repeats: int) -> Result:
    """Check, then time, then ask the peers."""
    case.check()
    times = clock.measure(driver, case.runs, repeats)
    others: dict[str, float] = {}
    if not isinstance(driver, Simulator):
        others = peers.torch_times(case.peers) | peers.jax_times(case.peers)
    return Result(
        case.name, case.size, times.kernel_us, times.call_us, times.replay_us, times.spread,
        case.moved / (times.kernel_us * 1e-6) / copy, case.target, others,
        {name: taken / times.kernel_us for name, taken in others.items()}, case.peer_targets,
    )  # fmt: skip


def copy_bandwidth(driver: Driver, repeats: int) -> float:
    """Bytes a second of a device copy, read and written."""
    copy = clock.Copy(driver, 1 << 12 if isinstance(driver, Simulator) else 1 << 31)
    times = clock.measure(driver, [copy.run] * 2, repeats)
    return 2 * copy.size / (times.kernel_us * 1e-6)


def setting_of(driver: Driver, copy: float) -> dict[str, Any]:
    """Machine, versions and the copy."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    simulated = isinstance(driver, Simulator)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "simulated": simulated,
        "device": "Numba's simulator" if simulated else str(getattr(driver, "_device").name),  # noqa: B009
        "capability": driver.machine.capability,
        "copy_GB_s": copy / 1e9,
        "python": platform.python_version(),
        "versions": versions,
    }


def figures(results: list[Result], simulated: bool, seconds: float) -> dict[str, Any]:
    """What the promises name; figures of the simulator are left out, so that none passes."""
    found: dict[str, Any] = {"checked": len(results), "seconds": round(seconds, 1)}
    if simulated:
        return found
    for each in results:
        key = each.case.replace(" ", "_").replace("=", "")
        if key not in found:
            found[key] = {"of_copy": each.of_copy, "times": each.times_peer}
    found["launch_us"] = min(each.call_us for each in results if each.case.startswith("bag"))
    found["replay_us"] = min(each.replay_us for each in results)
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when a target was missed under --check, 2 without a device."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run.py", description=__doc__)
    parser.add_argument("--json", help="a file, or - for one line on standard output")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    options = parser.parse_args(argv)
    started = time.monotonic()
    try:
        driver = default_driver()
    except BackEndMissing as problem:
        print(f"{problem} NUMBA_ENABLE_CUDASIM=1 runs tiny sizes in the simulator.")
        return 2
    simulated = isinstance(driver, Simulator)
    copy = copy_bandwidth(driver, options.repeats)
    setting = setting_of(driver, copy)
    print(f"{setting['device']}: copy {copy / 1e9:.1f} GB/s")
    if simulated:
        print("SIMULATED on tiny sizes: answers are checked, times and ratios mean nothing.")
    results = []
    for case in all_cases(driver, TINY if simulated else FULL):
        if time.monotonic() - started > MINUTES * 60:
            print(f"{MINUTES} minutes are over; what follows was not measured.")
            break
        result = result_of(driver, case, copy, options.repeats)
        results.append(result)
        against = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in result.times_peer.items())
        print(
            f"{result.case:20s} {result.size:36s} kernel {result.kernel_us:10.1f} us  call "
            f"{result.call_us:8.1f} us  {result.of_copy:6.3f} of copy  {against}"
        )
    told = {
        "setting": setting,
        "figures": figures(results, simulated, time.monotonic() - started),
        "results": [asdict(each) for each in results],
    }
    if options.json == "-":
        print(json.dumps(told | told["figures"]))
    elif options.json:
        Path(options.json).write_text(json.dumps(told, indent=1), "utf-8")
    missed = [] if simulated else [f"{r.case}: {text}" for r in results for text in r.short]
    for text in missed:
        print("short:", text)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

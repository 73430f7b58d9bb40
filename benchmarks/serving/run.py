"""What serving costs beside the bare session: server pinned to one core, load generator to another.

Parts (choose with --only): `table`, good answers a second with 16 callers, ours, a minimal uvloop
server and FastAPI with binary bodies in turns, the bare session beside them; `added`, latency with
one caller; `open`, calls falling due at random at 70 % and 150 % of what the closed loop reached;
`candidates`, the cost of 100 to 10,000 candidates a call; `soak`, memory over many requests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import load
from peers import PEERS
from servers import (
    FASTAPI,
    OURS,
    RAW,
    REFUSING,
    Server,
    compile_ours,
    running,
    standing_still,
)
from workloads import NAMES, SEED, Workload, build

CALLERS = 16
TURNS = 4  # of the table, a round
PARTS = ("table", "added", "open", "candidates", "soak")
SIZES = (100, 300, 1000, 3000, 10_000)
OPEN_TURNS = 6
OPEN_DEADLINE_MS = 50.0  # what callers of the open loop grant
PACKAGES = ("tierline", "onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "fastapi")

Figures = dict[str, object]


def main() -> int:
    """Run one command line; returns the exit code."""
    options = _parser().parse_args()
    chosen = options.only.split(",")
    names = options.workloads.split(",")
    if options.interpreted:
        say("ours is measured interpreted")
    else:
        compile_ours()
        say("ours is measured compiled")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    for kind in _named(options.peers):
        PEERS[kind].install()
    figures: Figures = {"settings": _settings(options, cores)}
    with ExitStack() as stack:
        folder = options.models
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workloads = build(folder)
        for part in chosen:
            for name in names:
                say(f"{part}, {name}")
                measure: Measure = globals()[f"measure_{part}"]
                measure(workloads[name], cores[0], options, figures)
    if options.json == "-":
        sys.stdout.write(json.dumps(figures) + "\n")
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


Measure = Callable[[Workload, int, argparse.Namespace, Figures], None]


def measure_table(
    workload: Workload, core: int, options: argparse.Namespace, figures: Figures
) -> None:
    """Rates in short turns, so that drift of the machine hits every row; a ratio is the median of
    the turns' ratios. Products come after."""
    name, seconds = workload.name, options.seconds / 2
    rates: dict[str, list[float]] = {"bare b=1": [], "bare b=8": []}
    late: dict[str, list[float]] = {}

    def ask(server: Server) -> None:
        found = load.closed(server.port, server.message(), CALLERS, seconds)
        _require_good(found, server)
        rates.setdefault(server.kind, []).append(found.rate)
        late.setdefault(server.kind, []).append(load.quantile(found.answered, 0.99))

    with ExitStack() as stack:
        bare = stack.enter_context(running("bare", workload, core))
        servers = [stack.enter_context(ours_running(workload, core, options))]
        servers += [stack.enter_context(running(kind, workload, core)) for kind in (RAW, FASTAPI)]
        ask_bare(bare, 1, 0.5)
        for server in servers:
            load.closed(server.port, server.message(), CALLERS, 1.0)
        for _ in range(TURNS * options.rounds):
            for batch in (1, 8):
                rates[f"bare b={batch}"].append(ask_bare(bare, batch, seconds / 2))
            for server in servers:
                ask(server)
    median = {kind: statistics.median(each) for kind, each in rates.items()}
    for kind, rate in median.items():
        tail = f", p99 {statistics.median(late[kind]) * 1e3:.2f} ms" if kind in late else ""
        spread = f"{min(rates[kind]):,.0f}–{max(rates[kind]):,.0f}"
        say(f"  {kind:<12}{rate:>9,.0f} a second ({spread}){tail}")
    figures[f"{name}_rates"] = median
    for kind, key in (("bare b=1", "bare"), (RAW, "raw"), (FASTAPI, "fastapi")):
        ratios = [one / other for one, other in zip(rates[OURS], rates[kind], strict=True)]
        low, middle, high = statistics.quantiles(ratios)
        figures[f"{name}_over_{key}"] = middle
        figures[f"{name}_over_{key}_quartiles"] = [low, high]
        say(f"  ours ÷ {kind:<10} {middle:.3f} [{low:.3f}, {high:.3f}]")
    if options.peers:
        figures[f"{name}_over_best_product"] = min(
            _over_product(kind, workload, core, options) for kind in _named(options.peers)
        )


def _over_product(kind: str, workload: Workload, core: int, options: argparse.Namespace) -> float:
    """How often ours answers while a product answers once, the median of short turns; the product
    stands still during ours, for its idle processes poll."""
    rates: list[tuple[float, float]] = []
    with running(kind, workload, core) as theirs, ours_running(workload, core, options) as ours:

        def ask(server: Server, seconds: float) -> float:
            run = load.closed(server.port, server.message(), CALLERS, seconds)
            _require_good(run, server)
            return run.rate

        ask(theirs, 1.0)
        for _ in range(2 * options.rounds):
            rate = ask(theirs, options.seconds / 2)
            with standing_still(theirs):
                ask(ours, options.seconds / 8)  # its memory and caches are the other's till then
                rates.append((rate, ask(ours, options.seconds / 2)))
    low, middle, high = statistics.quantiles(mine / other for other, mine in rates)
    product, tierline = (statistics.median(each) for each in zip(*rates, strict=True))
    say(
        f"  {kind:<12}{product:>9,.0f} a second, ours in turn with it {tierline:,.0f}: "
        f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    )
    return middle


def measure_added(
    workload: Workload, core: int, options: argparse.Namespace, figures: Figures
) -> None:
    """Latency with one caller, ours and the minimal server in short turns; what is added is the
    median of the turns' differences."""
    found: dict[str, list[float]] = {OURS: [], RAW: []}
    with ours_running(workload, core, options) as ours, running(RAW, workload, core) as raw:
        for server in (ours, raw):
            load.closed(server.port, server.message(), 1, 1.0)
        for _ in range(TURNS * options.rounds):
            for server in (ours, raw):
                run = load.closed(server.port, server.message(), 1, options.seconds / 4)
                found[server.kind].append(load.quantile(run.answered, 0.5) * 1e6)
    ours_us, raw_us = (statistics.median(found[kind]) for kind in (OURS, RAW))
    turns = [mine - theirs for mine, theirs in zip(found[OURS], found[RAW], strict=True)]
    low, added, high = statistics.quantiles(turns)
    figures[f"{workload.name}_alone_us"] = {OURS: ours_us, RAW: raw_us}
    figures[f"{workload.name}_added_us"] = added
    figures[f"{workload.name}_added_us_quartiles"] = [low, high]
    say(
        f"  p50 {ours_us:.0f} µs, minimal server {raw_us:.0f} µs: {added:+.0f} "
        f"[{low:+.0f}, {high:+.0f}] µs"
    )


@dataclass
class OpenLoad:
    """What came of random arrivals, all turns together; ``least_…`` is what the machine and the
    load generator let anybody have in the same turns."""

    capacities: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)  # of capacity, answered in time
    below: load.Measured = field(default_factory=load.Measured)  # at 70 %
    above: load.Measured = field(default_factory=load.Measured)  # at 150 %
    least_below: load.Measured = field(default_factory=load.Measured)  # the minimal server
    least_above: load.Measured = field(default_factory=load.Measured)  # one that only refuses


def measure_open(
    workload: Workload, core: int, options: argparse.Namespace, figures: Figures
) -> None:
    """Random arrivals: below saturation the tail, beyond it the goodput (the median of the turns)
    and the refusals."""
    name = workload.name
    found = _offered(workload, core, options)
    low, goodput, high = statistics.quantiles(found.shares)
    tail, least_tail = _quantiles(found.below.answered), _quantiles(found.least_below.answered)
    refused, least = _quantiles(found.above.refused), _quantiles(found.least_above.refused)
    count = len(found.above.refused)
    figures[f"{name}_open"] = {
        "turns": OPEN_TURNS,
        "capacity": statistics.median(found.capacities),
        "ms_at_70": tail,
        "refused_at_70": len(found.below.refused),
        "goodput_quartiles_at_150": [low, high],
        "refused_at_150": count,
        "refused_ms_at_150": refused,
        "failed": {"at 70 %": found.below.failed, "at 150 %": found.above.failed},
        "minimal_server_ms_at_70": least_tail,
        "refusing_server_ms_at_150": least,
        "queue_p99_over_p50": load.queue_tail(0.7),
    }
    figures[f"{name}_p99_over_p50"] = tail["0.99"] / tail["0.5"]
    figures[f"{name}_goodput"] = goodput
    figures[f"{name}_refused_ms"] = refused["0.999"]
    say(f"  70 %: p50 {tail['0.5']:.2f}, p99 {tail['0.99']:.2f} ms")
    say(f"    the minimal server: p50 {least_tail['0.5']:.2f}, p99 {least_tail['0.99']:.2f} ms")
    say(f"    a queue of constant service times: p99 {load.queue_tail(0.7):.1f} times p50")
    say(
        f"  150 %: goodput {goodput:.2f} [{low:.2f}, {high:.2f}] of capacity, {count} refused, "
        f"99.9 % of them within {refused['0.999']:.2f} ms, other ends {found.above.failed}"
    )
    say(f"    a server that only refuses: 99.9 % within {least['0.999']:.2f} ms")


def _offered(workload: Workload, core: int, options: argparse.Namespace) -> OpenLoad:
    found, short = OpenLoad(), options.seconds / 2
    with ExitStack() as stack:
        ours = stack.enter_context(ours_running(workload, core, options))
        minimal, refusing = (
            stack.enter_context(running(kind, workload, core)) for kind in (RAW, REFUSING)
        )
        message, plain = ours.message(deadline_ms=OPEN_DEADLINE_MS), minimal.message()
        for server in (ours, minimal, refusing):
            load.closed(server.port, server.message(), CALLERS, 1.0)
        for turn in range(OPEN_TURNS):
            offer = partial(load.open_loop, seconds=options.seconds, seed=turn)
            before = load.closed(ours.port, message, CALLERS, short).rate
            found.below.add(offer(ours.port, message, 0.7 * before))
            overloaded = offer(ours.port, message, 1.5 * before)
            found.above.add(overloaded)
            # Capacity drifts with the machine: it is asked before and after.
            capacity = (before + load.closed(ours.port, message, CALLERS, short).rate) / 2
            found.capacities.append(capacity)
            found.shares.append(_in_time(overloaded) / capacity)
            theirs = load.closed(minimal.port, plain, CALLERS, short).rate
            found.least_below.add(offer(minimal.port, plain, 0.7 * theirs))
            found.least_above.add(offer(refusing.port, message, 1.5 * before))
    return found


def _in_time(run: load.Measured) -> float:
    """Answers a second that came before their deadline."""
    return sum(each <= OPEN_DEADLINE_MS / 1e3 for each in run.answered) / run.seconds


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds by share."""
    return {str(share): load.quantile(seconds, share) * 1e3 for share in (0.5, 0.9, 0.99, 0.999)}


def measure_candidates(
    workload: Workload, core: int, options: argparse.Namespace, figures: Figures
) -> None:
    """µs a call by its number of candidates, and µs a candidate between the ends."""
    costs: dict[int, float] = {}
    with ours_running(workload, core, options) as server:
        for size in SIZES:
            message = server.message(candidates=size)
            load.closed(server.port, message, 1, 0.7)
            run = load.closed(server.port, message, 1, options.seconds)
            _require_good(run, server)
            costs[size] = load.quantile(run.answered, 0.5) * 1e6
            say(f"  {size:>6,} candidates: {costs[size]:>9,.0f} µs a call at p50")
    slope = {size: (costs[size] - costs[100]) / (size - 100) for size in SIZES[1:]}
    figures[f"{workload.name}_candidates_us"] = costs
    figures[f"{workload.name}_slope_growth"] = max(slope.values()) / min(slope.values())
    say(f"  µs a further candidate: {', '.join(f'{each:.2f}' for each in slope.values())}")


def measure_soak(
    workload: Workload, core: int, options: argparse.Namespace, figures: Figures
) -> None:
    """Resident memory after a tenth of the requests and after all of them."""
    with ours_running(workload, core, options) as server:
        message = server.message()
        wanted, served, early = options.requests, 0, 0
        while served < wanted:
            served += len(load.closed(server.port, message, CALLERS, 1.0).answered)
            if not early and served >= wanted // 10:
                early = server.resident
        grown = (server.resident - early) / 2**20
    figures[f"{workload.name}_soak"] = {"requests": served, "early_mib": early / 2**20}
    figures[f"{workload.name}_grown_mib"] = grown
    say(f"  {served:,} requests, {early / 2**20:.0f} MiB after a tenth, {grown:+.1f} MiB since")


def ours_running(
    workload: Workload, core: int, options: argparse.Namespace
) -> AbstractContextManager[Server]:
    """Our node, in the form that was asked for."""
    return running(OURS, workload, core, compiled=not options.interpreted)


def ask_bare(bare: Server, batch: int, seconds: float) -> float:
    """Requests a second of the bare session."""
    process = bare.process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{batch} {seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _named(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _require_good(run: load.Measured, server: Server) -> None:
    if run.failed or run.refused:
        raise SystemExit(f"{server.kind} refused {len(run.refused)}, failed {run.failed}")


def _settings(options: argparse.Namespace, cores: Sequence[int]) -> Figures:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cpu": _cpu(),
        "cores": {"server": cores[0], "load generator": cores[-1]},
        "python": platform.python_version(),
        "versions": versions,
        "ours": "interpreted" if options.interpreted else "compiled",
        "callers": CALLERS,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "warm_up": "one second a server, uncounted",
        "seed": SEED,
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "?")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/serving/run.py --only table --workloads w1_fp32",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--workloads", default=",".join(NAMES), help=", ".join(NAMES))
    parser.add_argument("--peers", default="", help=f"install and measure: {', '.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000, help="of the soak")
    parser.add_argument(
        "--interpreted", action="store_true", help="run ours from plain sources; default: compiled"
    )
    parser.add_argument("--models", type=Path, help="keep the models here; default: made anew")
    parser.add_argument("--json", metavar="-|PATH", default="", help="write the figures as JSON")
    return parser


def say(text: str) -> None:
    """A line for the reader; stdout is for figures."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

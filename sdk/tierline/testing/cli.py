"""The command ``tierline simulate``: a client's configuration, in virtual time, under faults."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random

from tierline._config import ClientConfig
from tierline._toml import read_config
from tierline.cli import EXIT_DONE, EXIT_REFUSED, Command
from tierline.testing.faults import (
    FaultKind,
    Schedule,
    draw_schedule,
    kinds_named,
    read_schedule,
)
from tierline.testing.load import typical_load
from tierline.testing.report import report
from tierline.testing.scenario import draw_plan
from tierline.testing.shrinking import shrink
from tierline.testing.simulation import Plan, Run, run_plan

Planner = Callable[[int], Plan]
RATE = 20.0  # calls a second, on average


def configure(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a client's TOML file; without one, fleets too are drawn from the seed",
    )
    parser.add_argument(
        "--faults", default="all", help="kinds, separated by commas; all; none (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default: 100)")
    parser.add_argument("--seed", type=int, help="one seed alone, with the trace of its run")
    parser.add_argument("--calls", type=int, default=100, help="calls a seed (default: 100)")
    parser.add_argument("--schedule", help="these very faults, as a reproduction line has them")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Simulate and print; exit code 3 when a property did not hold."""
    kinds = kinds_named(options.faults.split(","))
    planned: Planner = partial(_drawn, kinds=kinds)
    if options.config is not None:
        config = read_config(options.config)
        planned = partial(_configured, config, options.config, kinds, options.calls)
    if options.schedule is not None:
        planned = partial(_with_schedule, planned, read_schedule(options.schedule))
    if options.seed is not None:
        return _one(run_plan(planned(options.seed), seed=options.seed), options)
    failed: list[Run] = []
    figures = report(_kept(planned, options.seeds, failed))
    if options.json:
        _say(json.dumps(figures.as_dict()))
    else:
        _say(str(figures))
        if failed:
            _say(f"the smallest that fails:\n  {shrink(failed[0]).reproduction}")
    return EXIT_REFUSED if figures.violations else EXIT_DONE


def _kept(planned: Planner, seeds: int, failed: list[Run]) -> Iterator[Run]:
    for seed in range(seeds):
        done = run_plan(planned(seed), seed=seed)
        if done.violations and not failed:
            failed.append(done)
        yield done


def _one(done: Run, options: argparse.Namespace) -> int:
    figures = report([done])
    if options.json:
        _say(json.dumps({**figures.as_dict(), "trace_hash": done.trace_hash}))
    else:
        _say(f"{done.trace}\n\n{figures}\n  trace hash          {done.trace_hash}")
    return EXIT_REFUSED if done.violations else EXIT_DONE


def _drawn(seed: int, *, kinds: tuple[FaultKind, ...]) -> Plan:
    plan = draw_plan(seed)
    return replace(plan, faults=tuple(fault for fault in plan.faults if fault.kind in kinds))


def _configured(
    config: ClientConfig, path: str, kinds: tuple[FaultKind, ...], calls: int, seed: int
) -> Plan:
    until = calls / RATE
    urls = [endpoint.url for tier in config.tiers for endpoint in tier.endpoints]
    return Plan(
        config=config,
        load=typical_load(Random(f"{seed}/load"), calls=calls, until=until),
        faults=draw_schedule(Random(f"{seed}/faults"), urls, until=until, kinds=kinds),
        prepare=True,
        command=f"tierline simulate {path} --calls {calls}",
    )


def _with_schedule(planned: Planner, faults: Schedule, seed: int) -> Plan:
    return replace(planned(seed), faults=faults)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


SIMULATE = Command(
    name="simulate",
    summary="Run a client's configuration in virtual time, under faults drawn from seeds.",
    configure=configure,
    run=run,
    example="tierline simulate tierline.toml --faults crash,latency,busy --seeds 200",
)

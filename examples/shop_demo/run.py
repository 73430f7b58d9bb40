"""The whole of Tierline on one machine: train, serve two tiers, break them under load, compare.

What happens, in order: both models are trained; two edge nodes and one cloud server start as
processes, the cloud behind a relay that can be cut; 2,000 calls are sent by ten callers while the
cloud is cut for a while and one edge node is killed and brought back; the same users are then
served by the edge alone and by the cloud alone, with nothing broken; one table compares.

Exit codes: 0 every call was answered · 1 something did not start · 3 a call failed · 130/143 ended
by Ctrl-C / SIGTERM. Whatever the code, every process it started has ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

from faults import Director, Event, Fault
from load import Load, Outcome, Plan
from progress import bar, say
from relay import Relay
from report import PASSES, Figures, answers_again, draw, figures_of, table_of, timeline_of
from rich.console import Console
from shop import MODEL, Shop, train, visits_of

from tierline_drills import DrillError
from tierline_drills.processes import Processes, answers, free_ports, tierline_command

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 3, 130, 143
TICK = 0.1  # seconds between two looks at the load
EXAMPLE = "example:\n  python examples/shop_demo/run.py --calls 500 --json figures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where everything listens. ``cloud`` is the relay's address, not the server's."""

    ports: tuple[int, int, int]  # edge-1, edge-2, cloud
    relay: Relay

    @property
    def edge(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports[:2]]

    @property
    def cloud(self) -> list[str]:
        return [f"http://127.0.0.1:{self.relay.port}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started with it ignored
    try:
        figures = _demo(options)
    except KeyboardInterrupt:
        say("interrupted; every process has ended")
        return EXIT_INTERRUPTED
    except DrillError as error:
        say(str(error))
        return EXIT_FAILED
    if options.json == "-":
        sys.stdout.write(json.dumps(figures) + "\n")
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return EXIT_REFUSED if sum(figures[name]["failed"] for name in PASSES) else EXIT_DONE


def _demo(options: argparse.Namespace) -> Figures:
    began = time.monotonic()
    data = Path(options.data).resolve() if options.data else None
    name = f"{data.stem}" if data else f"seed-{options.seed}"
    work = (Path(options.work) / name).resolve()
    with ExitStack() as stack:
        fleet = stack.enter_context(Processes(work / "logs"))
        say(f"1/4 training both models into {work} (finished steps are kept)")
        shop = train(fleet, work, data, options.seed)
        visits = visits_of(shop.data, options.calls, options.seed)
        say("2/4 starting two edge nodes and one cloud server")
        ports = free_ports(3)
        relay = stack.enter_context(Relay(ports[2]))
        servers = Servers(ports=(ports[0], ports[1], ports[2]), relay=relay)
        _start_all(fleet, shop, servers)
        plan = Plan(
            edge=servers.edge, cloud=servers.cloud, model=MODEL, visits=visits, rate=options.rate
        )
        say(f"3/4 {options.calls} calls through both tiers, with faults")
        director = _director(fleet, shop, servers, options.calls)
        tiered = _pass("tiered", plan, director)
        say("4/4 the same users, nothing broken: edge only, then cloud only")
        calm = replace(plan, rate=None, deadline=2.0)  # as fast as answered: time is not the point
        edge_only = _pass("edge only", replace(calm, mode="edge_only"))
        cloud_only = _pass("cloud only", replace(calm, mode="cloud_only"))
        outcomes = dict(zip(PASSES, (edge_only, tiered, cloud_only), strict=True))
        recovered, after = _recoveries(tiered, director.events, servers)
        figures = _tell(work, outcomes, director.events, recovered, time.monotonic() - began)
        figures["recovery"] = after
        if options.keep:
            say(f"serving on: edge={servers.edge}, cloud={servers.cloud}; Ctrl-C ends it")
            signal.pause()
    return figures


def _start_all(fleet: Processes, shop: Shop, servers: Servers) -> None:
    names = ("edge-1", "edge-2", "cloud")
    for name, port in zip(names, servers.ports, strict=True):
        fleet.start(name, _serve(name, shop, port))
    for name, port in zip(names, servers.ports, strict=True):
        fleet.wait_ready(name, f"http://127.0.0.1:{port}/readyz")
        say(f"    {name} is ready")


def _serve(name: str, shop: Shop, port: int) -> list[str]:
    kind = "cloud" if name == "cloud" else "edge"
    bundle = shop.cloud_bundle if kind == "cloud" else shop.edge_bundle
    options = ["--port", str(port), "--trust", str(shop.public_key), "--threads", "1"]
    return tierline_command(kind, "serve", str(bundle), *options)


def _director(fleet: Processes, shop: Shop, servers: Servers, calls: int) -> Director:
    """The cloud is cut for a quarter of the calls; then one edge node is killed half way."""

    def bring_back() -> None:
        fleet.start("edge-1", _serve("edge-1", shop, servers.ports[0]))
        director.awaited["edge-1 ready again"] = lambda: answers(f"{servers.edge[0]}/readyz")

    faults = (
        Fault(share=0.15, label="cloud cut", act=servers.relay.cut),
        Fault(share=0.40, label="cloud restored", act=servers.relay.restore),
        Fault(share=0.50, label="edge-1 killed", act=lambda: fleet.kill("edge-1")),
        Fault(share=0.60, label="edge-1 restarted", act=bring_back),
    )
    director = Director(faults=faults, total=calls)
    return director


def _pass(name: str, plan: Plan, director: Director | None = None) -> list[Outcome]:
    """Send every visit's call; the director breaks things meanwhile. Always ends its callers."""
    load = Load(plan)
    try:
        load.start()
        with bar(name, len(plan.visits)) as update:
            ended = False
            while not ended:
                ended = load.wait(TICK)
                update(len(load.outcomes))
                for event in director.step(len(load.outcomes), load.elapsed()) if director else ():
                    say(f"    {event.at:5.1f} s  {event.label}")
    finally:
        load.stop()
    return load.outcomes


def _recoveries(
    tiered: Sequence[Outcome], events: Sequence[Event], servers: Servers
) -> tuple[list[Event], dict[str, float | None]]:
    """When the callers had their first answers from what was mended, and how long that took; a
    place that never answered again is named too."""
    mended = (
        ("cloud", "cloud restored", servers.cloud[0]),
        ("edge-1", "edge-1 restarted", servers.edge[0]),
    )
    told, seconds = [], {}
    for name, after, endpoint in mended:
        found = answers_again(tiered, events, after=after, endpoint=endpoint)
        seconds[name] = round(found[1], 2) if found else None
        last = max(one.at for one in tiered)
        label = f"{name} answers again" if found else f"{name} has not answered again"
        told.append(Event(at=found[0] if found else last, label=label))
    return told, seconds


def _tell(
    work: Path,
    outcomes: dict[str, list[Outcome]],
    events: Sequence[Event],
    recovered: Sequence[Event],
    seconds: float,
) -> Figures:
    happened = sorted([*events, *recovered], key=lambda event: event.at)
    figures: Figures = {name: figures_of(ones) for name, ones in outcomes.items()}
    figures["timeline"] = [{"at": round(one.at, 2), "event": one.label} for one in happened]
    figures["seconds"] = round(seconds, 1)
    picture = work / "timeline.png"
    draw(picture, outcomes["tiered"], events, f"{len(outcomes['tiered'])} calls under faults")
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    console.print(table_of(figures, "One shop, three ways of serving it"))
    console.print(f"Timeline: {timeline_of(happened)}", soft_wrap=True)
    console.print(f"Picture: {picture}\n{seconds:.0f} s in all", soft_wrap=True)
    return figures


def _terminated(number: int, frame: object) -> Never:
    sys.exit(EXIT_TERMINATED)  # SystemExit unwinds every `with` and `finally`, as Ctrl-C does


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train, serve two tiers, break them under load, and compare in one table.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help="interactions, one `user item item …` line a user")
    parser.add_argument("--work", default=".demo", help="folder for everything made (.demo)")
    parser.add_argument("--calls", type=int, default=2000, help="calls in each pass (2000)")
    parser.add_argument("--rate", type=float, default=40.0, help="calls a second, tiered pass (40)")
    parser.add_argument("--seed", type=int, default=7, help="of the shop and the training (7)")
    parser.add_argument("--keep", action="store_true", help="afterwards serve on until Ctrl-C")
    parser.add_argument("--json", metavar="PATH", help="write the figures there (- for stdout)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

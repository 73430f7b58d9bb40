"""The command ``tierline explain``: the policy a file amounts to, and the worst it implies."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tierline._config import ClientConfig
from tierline._core import explain
from tierline._core.certified import SHADOW_BURST
from tierline._core.fallback import REMEMBERED
from tierline._core.findings import SAFE_EXTRA, Finding, Level, findings
from tierline._toml import read_config
from tierline.cli import EXIT_DONE, EXIT_REFUSED, Command

TABLES = ("retry", "hedge", "timeout", "breaker", "ejection", "limiter", "health", "escalation")
CLIENT = ("deadline", "transport", "zone", "allow_unsigned")


class Knob(NamedTuple):
    """One setting: its key in the file, its value, and where that comes from."""

    key: str
    value: object
    origin: str  # "file" | "default"


def configure(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    parser.add_argument("config", metavar="CONFIG", help="a client's TOML file")
    parser.add_argument(
        "--processes", type=_count, default=1, help="how many run with it (default: 1)"
    )
    parser.add_argument(
        "--rate", type=_count, default=100, help="calls a second, of all of them (default: 100)"
    )
    parser.add_argument(
        "--most-extra",
        type=float,
        default=SAFE_EXTRA,
        metavar="N",
        help=f"attempts a second that retry floors may add (default: {SAFE_EXTRA:g})",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Explain and print; exit code 3 when the combination is refused or unsafe."""
    config = read_config(options.config)
    found = findings(config, processes=options.processes, most_extra=options.most_extra)
    if options.json:
        told = _as_dict(config, _given(options.config), found, options)
        _say(json.dumps(told, indent=2, default=str))
    else:
        _say("\n".join(_sentences(config, _given(options.config), found, options)))
    unsafe = any(finding.level is not Level.NOTE for finding in found)
    return EXIT_REFUSED if unsafe else EXIT_DONE


def knobs(config: ClientConfig, given: Collection[str]) -> list[Knob]:
    """Every setting in force; ``given`` are the keys that the file names."""
    found = [("client." + name, getattr(config, name)) for name in CLIENT]
    for name in TABLES:
        policy = getattr(config, name)
        if not is_dataclass(policy):
            found.append((name, "off"))
            continue
        found += [(f"{name}.{f.name}", getattr(policy, f.name)) for f in fields(policy)]
    policy = config.sovereignty
    found += [(f"sovereignty.{name}", getattr(policy, name)) for name in ("regions", "trust")]
    found.append(("sovereignty.default", policy.default or "allow"))
    return [Knob(key, value, "file" if key in given else "default") for key, value in found]


def _given(path: str) -> set[str]:
    """The keys a file names, as table.key."""
    document = tomllib.loads(Path(path).read_text("utf-8"))
    tables = {name: table for name, table in document.items() if isinstance(table, dict)}
    return {f"{name}.{key}" for name, table in tables.items() for key in table}


def _sentences(
    config: ClientConfig, given: set[str], found: Sequence[Finding], options: argparse.Namespace
) -> Iterator[str]:
    yield "Policy in force (what the file does not say is the default)"
    for key, value, origin in knobs(config, given):
        yield f"  {key:<26} {_shown(value):<14} {origin}"
    yield "\nTiers, in the order they are asked"
    for tier in config.tiers:
        asked = "" if config.sovereignty.permits(tier) else "   never asked: data policy"
        place = f"{tier.kind}, {tier.trust}, {tier.region}"
        yield f"  {tier.name:<14} {place:<26} {len(tier.endpoints)} endpoint(s){asked}"
    yield "\nWorst case"
    yield from _load_sentences(config, options.processes, options.rate)
    yield from _probe_sentences(config, options.processes)
    yield from _time_sentences(config)
    yield "\nAvailability with k endpoints down, whichever they are"
    yield from _loss_sentences(config)
    yield "\nWhat each tier sees of a request"
    yield from _sight_sentences(config)
    yield "\nFindings"
    for level, key, sentence in found:
        yield f"  {level.value.upper():<8} {key}: {sentence}"
    if not found:
        yield "  none"


def _load_sentences(config: ClientConfig, processes: int, rate: int) -> Iterator[str]:
    retry = config.retry
    most = explain.most_attempts(config)
    yield f"  A call makes at most {most} attempt(s), of {retry.attempts} allowed."
    seconds = 60
    calls = rate * seconds
    extra = explain.extra_attempts(config, calls=calls, seconds=seconds, processes=processes)
    floors = retry.floor * processes
    yield (
        f"  Over time, retries, hedges and failovers add at most {retry.budget:.0%} of what a tier "
        f"is asked, plus {floors:g} a second"
    )
    yield (
        f"  ({retry.floor:g} in each of {processes} process(es)): {calls} calls in {seconds} s "
        f"become at most {calls + extra:.0f} attempts"
    )
    yield (
        f"  besides escalations, an amplification of {1 + extra / calls:.2f}. Refused connections "
        f"are free: up to two a call."
    )
    spent = explain.escalations(config, calls=calls, seconds=seconds, processes=processes)
    policy = config.escalation
    span = "any run of calls" if policy.moves else "the calls of ten seconds"
    if spent:
        yield (
            f"  Escalations: at most {policy.ratio:.0%} of {span}, "
            f"plus {policy.allowance * processes:g}: {spent:.0f} of those {calls} calls."
        )
    else:
        yield "  Escalations: none is possible."
    shown = explain.shadows(config, calls=calls, processes=processes)
    if shown:
        yield (
            f"  Shadows: at most {policy.shadow:.1%} of the calls whose bundle is certified, plus "
            f"{SHADOW_BURST * processes:g} a model: {shown:.0f} of those {calls} calls."
        )


def _probe_sentences(config: ClientConfig, processes: int) -> Iterator[str]:
    if config.health is not None:
        probed = sum(len(tier.endpoints) for tier in explain.permitted(config))
        rate = processes * probed / config.health.interval
        yield f"  Probes of health come on top: {rate:g} a second over {probed} endpoint(s)."


def _time_sentences(config: ClientConfig) -> Iterator[str]:
    yield f"  A call ends by its deadline: {_ms(config.deadline)} unless it names another."
    chain = explain.longest_chain(config)
    if chain:
        spans = "; ".join(f"{s.tier} {_ms(s.started)} to {_ms(s.ended)}" for s in chain)
        yield f"  When every attempt hangs and no latency is known: {spans}."
    yield "  A half-open breaker's probe holds its permit as long as its attempt may take."


def _loss_sentences(config: ClientConfig) -> Iterator[str]:
    yield f"  {'down':>4}  {'at once':<10} {'settled':<10} may be lost"
    for loss in explain.availability(config):
        lost = [name for name in ("edge", "cloud") if getattr(loss, f"loses_{name}")]
        words = " or ".join(f"the whole {name}" for name in lost) or "neither edge nor cloud"
        yield f"  {loss.down:>4}  {_all(loss.at_once):<10} {_all(loss.settled):<10} {words}"
    breaker, priors = config.breaker, ", ".join(sorted(config.priors))
    yield "  At once: is each call answered by a tier while the fault is new and the budget pays?"
    yield f"  Settled: once breakers have opened ({breaker.consecutive} failures an endpoint), but"
    yield (
        f"  for a probe of each endpoint that is down, every {breaker.open_for:g} to "
        f"{breaker.open_cap:g} s."
    )
    yield f"  Other calls get the last good answer of their key ({REMEMBERED} are kept), else the"
    yield f"  popularity prior ({priors or 'none is configured'}), else one typed error."
    yield "  Without the cloud, doubtful calls get the edge's answer, degraded; without the edge,"
    yield "  every call goes to the cloud."


def _sight_sentences(config: ClientConfig) -> Iterator[str]:
    seen = explain.sights(config)
    names = list(dict.fromkeys(sight.field for sight in seen))
    width = max(len(name) for name in names) + 2
    for tier in config.tiers:
        of_tier = {sight.field: sight.action for sight in seen if sight.tier == tier.name}
        cells = " ".join(f"{name}={of_tier[name]}".ljust(width + 10) for name in names)
        yield f"  {tier.name:<14} {cells.rstrip()}"


def _as_dict(
    config: ClientConfig, given: set[str], found: Sequence[Finding], options: argparse.Namespace
) -> Mapping[str, Any]:  # Any: JSON
    seconds, processes = 60, options.processes
    calls = options.rate * seconds
    over = {"calls": calls, "seconds": seconds, "processes": processes}
    return {
        "policy": [knob._asdict() for knob in knobs(config, given)],
        "worst_case": {
            "attempts_a_call": explain.most_attempts(config),
            "deadline": config.deadline,
            "over": over,
            "extra_attempts": explain.extra_attempts(config, **over),
            "escalations": explain.escalations(config, **over),
            "shadows": explain.shadows(config, calls=calls, processes=processes),
            "longest_chain": [step._asdict() for step in explain.longest_chain(config)],
        },
        "availability": [loss._asdict() for loss in explain.availability(config)],
        "sights": [sight._asdict() for sight in explain.sights(config)],
        "findings": [finding._asdict() for finding in found],
    }


def _all(holds: bool) -> str:
    return "every call" if holds else "not every"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


EXPLAIN = Command(
    name="explain",
    summary="Say what a client's configuration amounts to, and the worst case it implies.",
    configure=configure,
    run=run,
    example="tierline explain tierline.toml --processes 16 --rate 500",
)

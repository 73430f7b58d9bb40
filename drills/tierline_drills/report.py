"""The report of a drill, computed from its raw log and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tierline_drills import figures
from tierline_drills.records import CONTROL, EXPERIMENT, Call, Event, Log
from tierline_drills.timeline import Timeline, happenings, phases, timeline
from tierline_drills.verdict import judged

Report = dict[str, Any]
COMPUTE = 0.003  # seconds the drills' model takes for one call, with its server's work around it


def report(log: Log) -> Report:
    """The whole document; ``passed`` says whether every bar holds and nothing stopped the drill."""
    drill, line = log.drill, timeline(log)
    calls, control = log.group(EXPERIMENT), log.group(CONTROL)
    spans = phases(log, line)
    fault = next(((a, b) for name, a, b in spans if name == "fault"), None)
    document: Report = {
        "drill": {name: getattr(drill, name) for name in type(drill).__dataclass_fields__},
        "load": _load(log),
        "timeline": _timeline(log, line),
        "recovery": _recovery(log, line),
        "availability": figures.availability(calls, drill),
        "amplification": figures.amplification(calls),
        "latency": {"all": figures.latencies(calls), **_by_phase(calls, spans)},
        "phases": _phases(log, calls, spans),
        "budget": figures.budget(calls, drill, fault),
        "quality": figures.quality(calls),
        "safety": figures.safety(log, calls, line),
        "beliefs": _beliefs(log, line),
        "counts": _counts(log),
        "targets": _targets(log, calls, fault),
        "control": _control(log, calls, control),
        "stopped": [event.label for event in log.events if event.kind == "stop"],
        "rolled_back": [event.label for event in log.events if event.kind == "rollback"],
        "responses": [event.label for event in log.events if event.kind == "response"],
    }
    document["overload"] = _overload(log, document["phases"])
    document["bars"] = judged(document, drill.bars)
    held = all(row["holds"] for row in document["bars"])
    invalid = document["control"].get("invalid", False)
    document["passed"] = held and not document["stopped"] and not invalid
    return document


def _load(log: Log) -> Report:
    """Calls a second; and of what the fleet carried that is which share, where it was measured."""
    settings = log.drill.settings.get("load", {})
    measured = {name: settings.get(name) for name in ("capacity", "share")}
    return {"rate": settings.get("rate", log.drill.rate), **measured}


def _timeline(log: Log, line: Timeline) -> Report:
    named = {name: getattr(line, name) for name in Timeline.__dataclass_fields__}
    events = [_event(event) for event in happenings(log.events)]
    changes = [
        {
            "at": belief.at,
            "client": belief.client,
            "endpoint": belief.endpoint,
            "breaker": belief.breaker,
            "out": belief.out,
        }
        for belief in log.beliefs
        if belief.group == EXPERIMENT
    ]
    return {**named, "events": events, "beliefs": changes}


def _event(event: Event) -> Report:
    return {
        "at": event.at,
        "kind": event.kind,
        "label": event.label,
        "endpoints": list(event.endpoints),
    }


def _recovery(log: Log, line: Timeline) -> Report:
    """MTTD = t2 − t0 (by anybody, by the first client, by all of them), MTTM = t3 − t0, MTTR =
    t5 − t0, heal = t5 − t4; RTO: until what was lost was back (or else until mitigated); RPO: what
    was lost for good."""
    restored = [event.at for event in log.events if event.kind == "restored"]
    back = max(
        (at for at in restored if line.inject is not None and at >= line.inject), default=None
    )
    heal = None
    if line.recovered is not None and line.cleared is not None:
        heal = max(0.0, line.recovered - line.cleared)
    lost = {c.name: c.value for c in log.counts if c.name in ("publishes_lost", "records_lost")}
    return {
        "symptom": line.since_inject(line.symptom),
        "mttd": line.since_inject(line.detected),
        "mttd_client": line.since_inject(line.detected_by_client),
        "mttd_all": line.since_inject(line.all_detected),
        "mttm": line.since_inject(line.mitigated),
        "mttr": line.since_inject(line.recovered),
        "heal": heal,
        "rto": line.since_inject(back if back is not None else line.mitigated),
        "rpo": lost or None,
    }


def _by_phase(calls: Sequence[Call], spans: Sequence[tuple[str, float, float]]) -> Report:
    return {
        name: figures.latencies([call for call in calls if begin <= call.due < end])
        for name, begin, end in spans
    }


def _phases(log: Log, calls: Sequence[Call], spans: Sequence[tuple[str, float, float]]) -> Report:
    found: Report = {}
    for name, begin, end in spans:
        some = [call for call in calls if begin <= call.due < end]
        found[name] = {
            "from": begin,
            "to": end,
            "availability": figures.availability(some, log.drill),
            "amplification": figures.amplification(some),
            "quality": figures.quality(some),
            "classes": figures.by_class(some, log.drill),
            "goodput": figures.goodput(some, log.drill, end - begin),
        }
    return found


def _overload(log: Log, spans: Report) -> Report:
    """Goodput in the fault ÷ what edge nodes of a given pace can do: one call a batch, each taking
    that pace and a model's own time. Of the fault's first second nothing is taken off."""
    during = spans.get("fault", {}).get("goodput")
    pace = float(log.drill.settings.get("fleet", {}).get("pace") or 0.0)
    if not pace or during is None:
        return {"of_capacity": None}
    edges = sum(tier == "edge" for tier in log.drill.endpoints.values())
    return {"of_capacity": during * (pace + COMPUTE) / edges}


def _beliefs(log: Log, line: Timeline) -> Report:
    """How often, since the injection, a client opened a breaker, or took an endpoint out."""
    since = [b for b in log.beliefs if line.inject is not None and b.at >= line.inject]
    ours = [belief for belief in since if belief.group == EXPERIMENT]
    opened = sum(belief.breaker == "open" for belief in ours)
    return {"opened": opened, "taken_out": sum(belief.out for belief in ours)}


def _counts(log: Log) -> Report:
    found: Report = {}
    for count in log.counts:
        found[count.name] = found.get(count.name, 0.0) + count.value
    return found


def _targets(log: Log, calls: Sequence[Call], fault: tuple[float, float] | None) -> Report:
    """What share of the attempts of its tier went to each faulted endpoint while it was faulty, and
    after how many seconds its clients left it out, whatever they believed of it."""
    names = {n for e in log.events if e.kind == "inject" for n in e.endpoints}
    if fault is None:
        return {}
    during = [call for call in calls if fault[0] <= call.due < fault[1]]
    shares: Report = {}
    for name in sorted(names):
        tier = log.drill.endpoints.get(name)
        peers = [n for n, kind in log.drill.endpoints.items() if kind == tier]
        attempts = [t for call in during for t in call.attempts if t.endpoint in peers]
        sent = sum(tried.endpoint == name for tried in attempts)
        share = sent / len(attempts) if attempts else None
        left_out = figures.left_out(attempts, name, len(peers), fault)
        shares[name] = {
            "share": share,
            "fair": 1 / len(peers) if peers else None,
            "left_out": left_out,
        }
    return shares


def _control(log: Log, calls: Sequence[Call], control: Sequence[Call]) -> Report:
    """The twin fleet that nobody touched. The run proves nothing when it, too, got worse."""
    if not control:
        return {"present": False}
    ours = figures.availability(calls, log.drill)
    theirs = figures.availability(control, log.drill)
    p99 = (figures.latencies(calls)["p99"], figures.latencies(control)["p99"])
    return {
        "present": True,
        "availability": theirs,
        "latency": figures.latencies(control),
        "delta_any": ours["any"] - theirs["any"] if calls else None,
        "delta_p99": p99[0] - p99[1] if None not in p99 else None,
        "invalid": theirs["any_interval"][1] < log.drill.slo,
    }

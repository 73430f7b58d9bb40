"""The same experiment in the simulator: its actions as a schedule of faults, its log as a report.

What the simulator does not model (a registry, a disk) leaves no fault; what a supervisor or the
responder will do is put in with the time it usually takes. Pure: seeds in, a log out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tierline import Mode
from tierline.testing import Fault, FaultKind, Plan, Run, Schedule, run_plan, steady_load
from tierline_drills.caller import client_config
from tierline_drills.experiment import Activity, Experiment
from tierline_drills.load import VISITS
from tierline_drills.records import EXPERIMENT, Belief, Call, Drill, Event, Log, Tried
from tierline_drills.session import PLAN

# Given to the simulator, not predicted by it; as measured on two cores on 21 November 2026.
START_TIME = 8.0  # seconds a node takes from its start until it is ready: it compiles kernels
ROLL_BACK_TIME = 2.0  # seconds from a bad publish until every node serves the old bundle again
QUIET = 1e-3  # seconds of a fault that ends with the load

MODEL_FAULTS: Mapping[str, FaultKind] = {
    "slow": FaultKind.SLOW,
    "hang": FaultKind.FREEZE,
    "fail": FaultKind.ERRORS,
    "nan": FaultKind.NAN,
    "infinite": FaultKind.INFINITE,
    "short": FaultKind.SHORT,
    "stale": FaultKind.STALE,
}
TOXICS: Mapping[str, FaultKind] = {
    "latency": FaultKind.SPIKES,
    "timeout": FaultKind.CUT,
    "reset_peer": FaultKind.RESET,
    "limit_data": FaultKind.EOF,
    "bandwidth": FaultKind.DRIP,
}
USUAL_COMPUTE = 0.003  # seconds: what a slow model's extra seconds are measured against


@dataclass(slots=True)
class _Script:
    """What the method does, and when, on the drill's own clock."""

    now: float
    faults: list[Fault] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    open: list[tuple[str, FaultKind, float, float]] = field(default_factory=list)
    bad: tuple[str, tuple[str, ...]] | None = None  # a fault prepared for a bundle, and its nodes

    def strike(self, node: str, kind: FaultKind, size: float = 1.0) -> None:
        self.open.append((node, kind, self.now, size))

    def heal(self, nodes: Sequence[str], at: float | None = None) -> None:
        until = self.now if at is None else at
        for entry in [one for one in self.open if one[0] in nodes]:
            node, kind, began, size = entry
            self.open.remove(entry)
            self.faults.append(Fault(kind, url(node), began, max(QUIET, until - began), size))

    def tell(self, kind: str, label: str, nodes: Sequence[str]) -> None:
        self.events.append(Event(self.now, kind, label, tuple(nodes)))


def url(node: str) -> str:
    """The simulated address of a node."""
    return f"http://{node}"


def schedule_of(experiment: Experiment) -> tuple[Schedule, list[Event], float]:
    """The faults, the events a drill would have written, and how long the load lasts."""
    load = experiment.own.get("load", {})
    script = _Script(now=float(load.get("warm", 8.0)))
    for activity in experiment.method:
        script.now += activity.before
        if activity.kind == "action":
            _act(script, activity, experiment.own.get("fleet", {}))
        script.now += activity.after
    end = script.now + float(load.get("after", 8.0))
    for node in {entry[0] for entry in script.open}:
        script.heal([node], end)
    return tuple(sorted(script.faults, key=lambda fault: fault.start)), script.events, end


def _act(script: _Script, activity: Activity, fleet: Mapping[str, Any]) -> None:
    arguments = activity.provider.get("arguments") or {}
    nodes = arguments.get("nodes") or ([arguments["node"]] if "node" in arguments else [])
    match activity.provider.get("func"):
        case "kill":
            _kill(script, nodes, fleet)
        case "freeze":
            _strike_all(script, nodes, FaultKind.FREEZE, activity.name)
        case "cut" | "unplug":
            _strike_all(script, nodes, FaultKind.CUT, activity.name)
        case "take_down":
            _strike_all(script, nodes, FaultKind.REFUSE, activity.name)
        case "add_toxic":
            kind, size = _toxic(arguments)
            _strike_all(script, nodes, kind, activity.name, size)
        case "break_model":
            kind, size = _model_fault(arguments)
            _strike_all(script, nodes, kind, activity.name, size)
        case "prepare_fault":
            script.bad = (arguments["kind"], tuple(nodes))
        case "publish" if arguments.get("inject"):
            _publish(script, fleet)
        case "lose_registry" | "corrupt_bundle" | "publish_on_full_disk":
            script.tell("inject", activity.name, ())
        case "plug" | "thaw" | "mend_network" | "mend_model" | "start":
            script.heal(nodes)
            script.tell("clear", activity.name, nodes)
        case _:
            pass  # what nobody but the registry notices


def _strike_all(
    script: _Script, nodes: Sequence[str], kind: FaultKind, name: str, size: float = 1.0
) -> None:
    script.tell("inject", name, nodes)
    for node in nodes:
        script.strike(node, kind, size)


def _kill(script: _Script, nodes: Sequence[str], fleet: Mapping[str, Any]) -> None:
    _strike_all(script, nodes, FaultKind.CRASH, "kill")
    back = script.now + float(fleet.get("restart_after", 1.0)) + START_TIME
    script.heal(nodes, back)
    script.events.append(Event(back, "clear", "restarted", tuple(nodes)))


def _publish(script: _Script, fleet: Mapping[str, Any]) -> None:
    if script.bad is None:
        script.tell("inject", "publish", ())
        return
    kind, nodes = script.bad
    _strike_all(script, nodes, MODEL_FAULTS[kind], "publish")
    if fleet.get("responses") != []:
        back = script.now + ROLL_BACK_TIME
        script.heal(nodes, back)
        script.events.append(Event(back, "restored", "rolled back", tuple(nodes)))


def _toxic(arguments: Mapping[str, Any]) -> tuple[FaultKind, float]:
    kind = TOXICS.get(str(arguments.get("type")), FaultKind.LATENCY)
    attributes = arguments.get("attributes") or {}
    if kind is FaultKind.SPIKES:
        return kind, float(attributes.get("latency", 0)) / 1000
    if kind is FaultKind.DRIP:
        return kind, 0.05
    return kind, float(arguments.get("toxicity", 1.0))


def _model_fault(arguments: Mapping[str, Any]) -> tuple[FaultKind, float]:
    kind = MODEL_FAULTS[str(arguments["kind"])]
    if kind is FaultKind.SLOW:
        return kind, 1.0 + float(arguments.get("seconds", 0.0)) / USUAL_COMPUTE
    return kind, float(arguments.get("share", 1.0))


def predicted(experiment: Experiment, name: str, seed: int) -> Log:
    """The log the simulator writes for this experiment: each client of the load alone with a
    fleet of its own."""
    faults, events, duration = schedule_of(experiment)
    load = experiment.own.get("load", {})
    rate, clients = float(load.get("rate", 40.0)), int(load.get("clients", 2))
    log = Log(_drill(experiment, name, seed, rate), events=list(events))
    kinds = {"edge": "edge", "cloud": "cloud", "standby": "cloud"}
    tiers = [
        {
            "name": tier,
            "kind": kind,
            "trust": "public" if tier == "standby" else "private",
            "urls": [url(node) for node, _, place in PLAN if place == tier],
        }
        for tier, kind in kinds.items()
    ]
    plan = {"tiers": tiers, "deadline": log.drill.deadline, "client": load.get("client", {})}
    mode = Mode(load.get("mode", "sequential"))
    for client in range(clients):
        calls = steady_load(rate / clients, duration, seed=f"{seed}/{client}")
        keyed = bool(load.get("keyed", True))
        planned = tuple(
            replace(c, mode=mode, key=f"visit-{c.number % VISITS}" if keyed else None)
            for c in calls
        )
        config = client_config(plan)
        script = Plan(config=config, load=planned, faults=faults, prepare=keyed)
        _add(log, run_plan(script, seed=f"{seed}/{client}"), client)
    return log.sort()


def _drill(experiment: Experiment, name: str, seed: int, rate: float) -> Drill:
    load, own = experiment.own.get("load", {}), experiment.own
    return Drill(
        id=name,
        title=experiment.title,
        hypothesis=experiment.hypothesis,
        rate=rate,
        deadline=float(load.get("deadline", 0.25)),
        seed=seed,
        endpoints={node: tier for node, _, tier in PLAN},
        bars=tuple(own.get("bars", ())),
        predicted=True,
        **own.get("report", {}),
    )


def _add(log: Log, done: Run, client: int) -> None:
    for outcome in done.outcomes:
        answer, error = outcome.answer, outcome.error
        log.calls.append(
            Call(
                EXPERIMENT,
                client,
                outcome.call.number,
                outcome.began,
                outcome.ended,
                tier="" if answer is None else answer.tier,
                quality="" if answer is None else answer.quality,
                reason="" if answer is None else answer.reason,
                error="" if error is None else f"{type(error).__name__}: {error}",
                attempts=tuple(
                    Tried(
                        one.number,
                        one.kind,
                        one.tier,
                        one.endpoint.removeprefix("http://"),
                        outcome.began + one.started,
                        outcome.began + one.ended,
                        one.outcome,
                    )
                    for one in outcome.attempts
                ),
            )
        )
    for event in done.trace.events:
        if event.what == "breaker":
            place, state = str(event.details[0]), str(event.details[1])
            name = place.removeprefix("http://")
            log.beliefs.append(Belief(EXPERIMENT, client, event.at, name, state, False))

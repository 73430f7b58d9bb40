"""The same experiment in the simulator: its actions as a schedule of faults, its log as a report.

What the simulator does not model (a registry, a disk) leaves no fault; what a supervisor or the
responder will do is put in with the time it usually takes. Pure: seeds in, a log out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tierline import Criticality, Mode
from tierline.testing import (
    Fault,
    FaultKind,
    NodeProfile,
    Plan,
    PlannedCall,
    Run,
    Schedule,
    run_plan,
    steady_load,
)
from tierline_drills.caller import client_config
from tierline_drills.experiment import Activity, Experiment
from tierline_drills.load import VISITS
from tierline_drills.records import EXPERIMENT, Belief, Call, Drill, Event, Log, Tried
from tierline_drills.session import PLAN
from tierline_drills.tempo import class_of

# Given to the simulator, not predicted by it; as measured on two cores on 21 November 2026.
START_TIME = 1.2  # seconds a node takes from its start until it is ready, its kernels in the cache
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
    "swapped": FaultKind.MISDIRECTED,
}
TOXICS: Mapping[str, FaultKind] = {
    "latency": FaultKind.SPIKES,
    "timeout": FaultKind.CUT,
    "reset_peer": FaultKind.RESET,
    "limit_data": FaultKind.EOF,
    "bandwidth": FaultKind.DRIP,
}
# What the simulated callers cannot notice, or the simulator does not model.
UNSEEN = frozenset(
    {
        "lose_registry",
        "corrupt_bundle",
        "publish_on_full_disk",
        "publish_on_broken_disk",
        "lose_metrics",
        "lose_names",
        "step_clock",
        "break_disk",
    }
)
USUAL_COMPUTE = 0.003  # seconds: what a slow model's extra seconds are measured against


@dataclass(slots=True)
class _Script:
    """What the method does, and when, on the drill's own clock."""

    now: float
    faults: list[Fault] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    open: list[tuple[str, FaultKind, float, float]] = field(default_factory=list)
    bad: tuple[str, tuple[str, ...]] | None = None  # a fault prepared for a bundle, and its nodes
    tempo: list[tuple[float, float]] = field(default_factory=list)  # calls a second from then on
    end: float = 0.0

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
    script = _script_of(experiment)
    faults = tuple(sorted(script.faults, key=lambda fault: fault.start))
    return faults, script.events, script.end


def _script_of(experiment: Experiment) -> _Script:
    load = experiment.own.get("load", {})
    rate = float(load.get("rate", 40.0))
    script = _Script(now=float(load.get("warm", 8.0)), tempo=[(0.0, rate)])
    for activity in experiment.method:
        script.now += activity.before
        if activity.kind == "action":
            _act(script, activity, experiment.own.get("fleet", {}))
        script.now += activity.after
    script.end = script.now + float(load.get("after", 8.0))
    for node in {entry[0] for entry in script.open}:
        script.heal([node], script.end)
    return script


def _act(script: _Script, activity: Activity, fleet: Mapping[str, Any]) -> None:
    arguments = activity.provider.get("arguments") or {}
    nodes = arguments.get("nodes") or ([arguments["node"]] if "node" in arguments else [])
    match activity.provider.get("func"):
        case "kill" | "restart_everything":
            _kill(script, nodes, fleet)
        case "freeze":
            _strike_all(script, nodes, FaultKind.FREEZE, activity.name)
        case "cut" | "unplug":
            _strike_all(script, nodes, FaultKind.CUT, activity.name)
        case "take_down":
            _strike_all(script, nodes, FaultKind.REFUSE, activity.name)
        case "add_toxic" if _is_plausible(arguments):
            script.tell("inject", activity.name, nodes)
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
        case "surge":
            script.tell("inject", activity.name, nodes)
            script.tempo.append((script.now, float(arguments["rate"])))
        case "calm":
            script.tell("clear", activity.name, nodes)
            script.tempo.append((script.now, script.tempo[0][1]))
        case function if function in UNSEEN:
            script.tell("inject", activity.name, ())
        case "plug" | "thaw" | "mend_network" | "mend_model" | "start" | "come_back":
            script.heal(nodes)
            script.tell("clear", activity.name, nodes)
        case "find_metrics" | "move" | "set_clocks_right" | "mend_disk":
            script.tell("clear", activity.name, nodes)
        case _:
            pass  # what nobody but the registry notices


def _is_plausible(arguments: Mapping[str, Any]) -> bool:
    """Whether an answer is wrong in a way that the simulator does not know."""
    attributes = arguments.get("attributes") or {}
    return arguments.get("type") == "content" and attributes.get("fault") == "wrong"


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
    attributes = arguments.get("attributes") or {}
    if arguments.get("type") == "content":
        return MODEL_FAULTS[str(attributes["fault"])], 1.0
    kind = TOXICS.get(str(arguments.get("type")), FaultKind.LATENCY)
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
    script = _script_of(experiment)
    faults = tuple(sorted(script.faults, key=lambda fault: fault.start))
    load = experiment.own.get("load", {})
    # Each simulated client has a fleet of its own; where the fleet's pace counts, one has it all.
    profiles = _profiles(experiment.own.get("fleet", {}), float(load.get("deadline", 0.25)))
    clients = 1 if profiles else int(load.get("clients", 2))
    log = Log(_drill(experiment, name, seed, script.tempo[0][1]), events=list(script.events))
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
    client_settings = _without_golden(load.get("client", {}))
    plan = {"tiers": tiers, "deadline": log.drill.deadline, "client": client_settings}
    for client in range(clients):
        run = Plan(
            config=client_config(plan),
            load=_calls(script, load, clients, f"{seed}/{client}"),
            faults=faults,
            prepare=bool(load.get("keyed", True)),
            profiles=profiles,
        )
        _add(log, run_plan(run, seed=f"{seed}/{client}"), client, load.get("classes", {}))
    return log.sort()


def _without_golden(client: Mapping[str, Any]) -> dict[str, Any]:
    """Simulated bundles have no golden requests."""
    health = client.get("health")
    return {**client, "health": {**health, "golden": None}} if health else dict(client)


def _calls(
    script: _Script, load: Mapping[str, Any], clients: int, seed: str
) -> tuple[PlannedCall, ...]:
    """One client's part of the load, at the tempo of each stretch."""
    mode, keyed = Mode(load.get("mode", "sequential")), bool(load.get("keyed", True))
    classes = load.get("classes", {}) if load.get("tells_class", True) else {}
    ends = [start for start, _ in script.tempo[1:]] + [script.end]
    planned: list[PlannedCall] = []
    for (start, rate), end in zip(script.tempo, ends, strict=True):
        for call in steady_load(rate / clients, end - start, seed=f"{seed}/{start}", start=start):
            number = len(planned) + 1
            worth = Criticality(class_of(number, classes))
            key = f"visit-{number % VISITS}" if keyed else None
            named = replace(call, number=number, mode=mode, key=key, criticality=worth)
            planned.append(named)
    return tuple(planned)


def _profiles(fleet: Mapping[str, Any], deadline: float) -> dict[str, NodeProfile]:
    """Edge nodes of one worker that take their time, as ``pace`` says, and refuse who would wait
    too long."""
    pace = float(fleet.get("pace", 0.0))
    if not pace:
        return {}
    # An attempt that another may follow has half the time at most. Classes of calls are the
    # clients' business only: what admission makes of them is not modelled.
    queue = max(1, int(deadline / 2 / pace) - 1)
    profile = NodeProfile(workers=1, compute=pace, spread=0.0, queue=queue)
    return {url(node): profile for node, kind, _ in PLAN if kind == "edge"}


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
        settings={"fleet": dict(own.get("fleet", {})), "load": dict(load)},
        **own.get("report", {}),
    )


def _add(log: Log, done: Run, client: int, classes: Mapping[str, float]) -> None:
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
                criticality=class_of(outcome.call.number, classes),
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

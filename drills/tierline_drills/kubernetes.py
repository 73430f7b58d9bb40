"""The same experiment as Chaos Mesh objects, for a fleet on Kubernetes. Pure.

Each action that breaks something becomes one object of chaos-mesh.org/v1alpha1 with the time until
its mending as ``duration``, inside one Workflow that runs them in the method's order. What Chaos
Mesh has no object for (a faulty model, a lost registry) is told, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tierline_drills.experiment import Activity, Experiment

API = "chaos-mesh.org/v1alpha1"
LABEL = "app.kubernetes.io/instance"  # which the chart puts on every pod
MENDING = frozenset(
    {"plug", "thaw", "mend_network", "mend_model", "start", "come_back"}
    | {"calm", "find_metrics", "set_clocks_right", "mend_disk"}
)
VOLUME = "/var/lib/tierline"  # where nodes of a fleet on Kubernetes keep what they write
EIO = 5

Object = dict[str, Any]


def chaos_mesh(experiment: Experiment, name: str, namespace: str) -> tuple[Object, list[str]]:
    """The Workflow, and a sentence for each activity that Chaos Mesh cannot carry out."""
    templates: list[Object] = []
    refused: list[str] = []
    order: list[str] = []
    for position, activity in enumerate(experiment.method):
        made = _template(activity, f"step-{position}", namespace)
        if made is not None:
            templates.append({**made, "deadline": f"{max(1.0, activity.after):g}s"})
            order.append(made["name"])
        elif activity.kind == "action" and activity.provider.get("func") not in MENDING:
            refused.append(f"{activity.name}: Chaos Mesh has no object for it; run it as a drill")
        elif activity.after:
            pause = {"name": f"step-{position}", "templateType": "Suspend"}
            templates.append({**pause, "deadline": f"{activity.after:g}s"})
            order.append(f"step-{position}")
    entry = {"name": "entry", "templateType": "Serial", "children": order}
    total = sum(a.after + a.before for a in experiment.method) + 60
    workflow = {
        "apiVersion": API,
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "entry": "entry",
            "templates": [{**entry, "deadline": f"{total:g}s"}, *templates],
        },
    }
    return workflow, refused


def _template(activity: Activity, name: str, namespace: str) -> Object | None:
    arguments = activity.provider.get("arguments") or {}
    nodes = arguments.get("nodes") or ([arguments["node"]] if "node" in arguments else [])
    selector = {
        "namespaces": [namespace],
        "expressionSelectors": [{"key": LABEL, "operator": "In", "values": list(nodes)}],
    }
    common = {"mode": "all", "selector": selector}
    match activity.provider.get("func"):
        case "kill":
            return {
                "name": name,
                "templateType": "PodChaos",
                "podChaos": {**common, "action": "pod-kill"},
            }
        case "freeze":
            # A frozen process, not a dead one: its CPU taken away is what a pod can be given.
            stress = {"cpu": {"workers": 64, "load": 100}}
            return {
                "name": name,
                "templateType": "StressChaos",
                "stressChaos": {**common, "stressors": stress},
            }
        case "cut" | "take_down" | "unplug":
            return _network(name, {**common, "action": "partition", "direction": "both"})
        case "add_toxic":
            return _toxic(name, common, arguments)
        case "step_clock" if nodes:  # pods' clocks only: the clients' are their owner's
            offset = {"timeOffset": f"{float(arguments['seconds']):+g}s"}
            return _object(name, "TimeChaos", {**common, **offset})
        case "lose_names":
            return _object(name, "DNSChaos", {**common, "action": "error"})
        case "break_disk":
            fault = {"action": "fault", "errno": EIO, "methods": ["fsync"], "percent": 100}
            return _object(name, "IOChaos", {**common, **fault, "volumePath": VOLUME})
        case _:
            return None


def _toxic(name: str, common: Object, arguments: Mapping[str, Any]) -> Object | None:
    attributes = arguments.get("attributes") or {}
    share = f"{100 * float(arguments.get('toxicity', 1.0)):g}"
    match arguments.get("type"):
        case "latency":
            delay = {
                "latency": f"{attributes.get('latency', 0):g}ms",
                "jitter": f"{attributes.get('jitter', 0):g}ms",
                "correlation": "0",
            }
            return _network(name, {**common, "action": "delay", "delay": delay})
        case "bandwidth":
            rate = {"rate": f"{attributes.get('rate', 0):g}kbps", "limit": 20000, "buffer": 10000}
            return _network(name, {**common, "action": "bandwidth", "bandwidth": rate})
        case "timeout":
            loss = {"loss": share, "correlation": "0"}
            return _network(name, {**common, "action": "loss", "loss": loss})
        case _:
            return None


def _network(name: str, spec: Object) -> Object:
    return _object(name, "NetworkChaos", spec)


def _object(name: str, kind: str, spec: Object) -> Object:
    """One step of the workflow; its spec stands under the kind's name, its first word small:
    networkChaos, timeChaos, but dnsChaos and ioChaos."""
    word = kind.removesuffix("Chaos")
    key = word.lower() if word.isupper() else word[0].lower() + word[1:]
    return {"name": name, "templateType": kind, f"{key}Chaos": spec}

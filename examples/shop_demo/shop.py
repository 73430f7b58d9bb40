"""The shop the demo serves: trained by ``tierline train``, and the test users who visit it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from load import Visit

from tierline_cloud.data import group_users, leave_one_out, read_interactions
from tierline_drills.processes import Processes, tierline_command

MODEL = "shop"
QUICK_MINUTES = 3.0  # bounds the training of a generated shop on a slow machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """The two bundles of one training, the data they came from, and the key that signed them."""

    edge_bundle: Path
    cloud_bundle: Path
    data: Path
    public_key: Path


def train(fleet: Processes, work: Path, data: Path | None, seed: int) -> Shop:
    """Train both models into ``work`` (what an earlier run finished is kept) and find the bundles.

    Without ``data`` the shop is generated from ``seed`` and the quick recipe is used; with it the
    full one. Raises DrillError when the training fails.
    """
    quick = ["--synthetic", "--recipe", "quick", "--max-minutes", str(QUICK_MINUTES)]
    source = quick if data is None else [str(data)]
    run, result = work / "training", work / "training.json"
    private, public = work / "signing.key", work / "signing.pub"
    if not public.exists():
        keys = ["--key", str(private), "--public", str(public)]
        fleet.show("key generation", tierline_command("bundle", "keygen", *keys))
    made = ["--out", str(run), "--key", str(private), "--json", str(result)]
    named = ["--model", MODEL, "--seed", str(seed)]
    fleet.show("training", tierline_command("train", *source, *made, *named))
    document = json.loads(result.read_text(encoding="utf-8"))
    return Shop(
        edge_bundle=Path(document["bundles"]["edge"]),
        cloud_bundle=Path(document["bundles"]["cloud"]),
        data=data or run / "synthetic.txt",
        public_key=public,
    )


def visits_of(data: Path, calls: int, seed: int) -> list[Visit]:
    """``calls`` visits of users whom neither training nor calibration used as a test.

    Leave-one-out: the history is all but the last item, the target is the last. Users come round
    again when there are fewer of them than calls.
    """
    split = leave_one_out(read_interactions(data))
    report = group_users(len(split.test_target), seed=seed).report
    spread = range(0, len(report), max(1, len(report) // calls))  # over the whole file
    users = [int(report[spread[number % len(spread)]]) for number in range(calls)]
    return [
        Visit(
            user=user,
            history=tuple(split.test_history.of(user).tolist()),
            target=int(split.test_target[user]),
        )
        for user in users
    ]

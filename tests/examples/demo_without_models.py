"""The demo with fake tiers for the trained ones: real processes, relay, faults and table."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "examples" / "shop_demo"), str(HERE)]

import run  # noqa: E402
from fake_tier import N_ITEMS  # noqa: E402
from load import Visit  # noqa: E402
from shop import Shop  # noqa: E402

from tierline_drills.processes import Processes  # noqa: E402


def no_training(fleet: Processes, work: Path, data: Path | None, seed: int) -> Shop:
    return Shop(edge_bundle=work, cloud_bundle=work, data=work, public_key=work)


def made_up_visits(data: Path, calls: int, seed: int) -> list[Visit]:
    return [
        Visit(user=user, history=(1, 2 + user % 5), target=1 + user % N_ITEMS)
        for user in range(calls)
    ]


def serve_fake(name: str, shop: Shop, port: int) -> list[str]:
    # Every edge answer is unsure, more than the budget escalates: degraded answers are certain.
    tier = "cloud" if name == "cloud" else "edge"
    return [sys.executable, str(HERE / "fake_tier.py"), tier, str(port), "0.9"]


if __name__ == "__main__":
    vars(run).update(train=no_training, visits_of=made_up_visits, _serve=serve_fake)
    sys.exit(run.main())

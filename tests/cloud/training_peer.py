"""One process of a training that `test_world.py` joins: the same run on every rank."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tierline_cloud.data import ShopConfig, generate_shop, leave_one_out
from tierline_cloud.models.sasrec import SASRecConfig
from tierline_cloud.training import TrainConfig, TrainReport, train_network
from tierline_cloud.training.world import World, open_world

# No dropout: two ranks drop other values than one process does.
SHOP = ShopConfig(users=120, items=80, clusters=4, styles=2)
SHAPE = SASRecConfig(n_items=80, dim=8, max_history=8, dropout=0.0)
# 31 users a batch: two ranks get different numbers of examples.
TRAINING = TrainConfig(epochs=3, batch=31, evaluate_every=1, rate=5e-3)


class _Silent:
    def update(self, done: float, note: str) -> None: ...


def run(world: World, checkpoint: Path, training: TrainConfig = TRAINING) -> TrainReport:
    """Train the tiny model as part of ``world``."""
    torch.set_num_threads(1)
    split = leave_one_out(generate_shop(SHOP))
    _, report = train_network(
        SHAPE, training, split, checkpoint=checkpoint, key="k", tracker=_Silent(), world=world
    )
    return report


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with open_world("cpu") as opened:
        found = run(opened, folder / "checkpoint.safetensors")
    (folder / "peer.json").write_text(json.dumps(found.history))

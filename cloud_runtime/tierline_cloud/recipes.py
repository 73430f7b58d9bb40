"""Two ways to build a pair of bundles: quick to see it work, full for real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tierline_cloud.calibration import TARGET_ESCALATION, HeadConfig
from tierline_cloud.compression.rungs import DEFAULT_LADDER, FEWER_NEIGHBOURS, Rung
from tierline_cloud.data import LEAVE_ONE_OUT, SPLITS, ShopConfig
from tierline_cloud.models.network import ARCHITECTURES
from tierline_cloud.training import TrainConfig
from tierline_cloud.training.config import EVENTS
from tierline_serving.neighbours import MOST

TRAINING_SHARE = 0.92  # of --max-minutes; the rest is for everything else
TIME_SHARES = {"cloud_training": 60, "again_training": 25, "edge_training": 14, "distillation": 18}
SEED_STEPS = {"cloud_training": 0, "edge_training": 1, "distillation": 2, "again_training": 3}

# What the edge is taught: whole histories or beginnings of them, one a user and epoch; or the
# cloud's head after every event.
BEGINNINGS, EVERY_EVENT = LESSONS = ("beginnings", "every-event")
PRETRAINING = ("none", "mf", "two-tower")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A SASRec without its catalogue."""

    dim: int
    blocks: int
    dropout: float
    heads: int = 1
    architecture: str = "sasrec"  # or "two-tower", for the edge
    positions: str = "absolute"  # or "relative"; the two towers weigh by age in any case

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture {self.architecture!r} is none of {', '.join(ARCHITECTURES)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what the factory makes of given data."""

    name: str
    split: str = LEAVE_ONE_OUT  # or GLOBAL_TIME, for data with timestamps
    max_history: int = 50
    pretrain: str = "none"  # of PRETRAINING: where the cloud's item rows begin
    cloud: ModelShape
    cloud_training: TrainConfig
    # A second network of the cloud, taught by the first with its neighbours (born-again networks:
    # Furlanello et al. 2018); both are served. None: the first is served alone.
    again: ModelShape | None = None
    again_training: TrainConfig | None = None
    label: float = 0.3  # the share of its lesson that is what really came next
    edge: ModelShape
    # None: the edge begins as the second network, whose shape it must have, not from labels
    edge_training: TrainConfig | None
    distillation: TrainConfig
    lesson: str = BEGINNINGS  # of LESSONS
    neighbours: float = 0.0  # how many an item the edge carries on average, for popular ones more
    carried: float = 1.0  # the share of the catalogue that the edge has rows of, the most popular
    head: HeadConfig = field(default_factory=HeadConfig)
    escalation: float = TARGET_ESCALATION
    alpha: float = 0.05  # the L_agree to certify, and with which risk of being wrong
    delta: float = 0.05
    shop: ShopConfig = field(default_factory=ShopConfig)
    ladder: tuple[Rung, ...] = DEFAULT_LADDER  # what `tierline compress` tries

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.pretrain not in PRETRAINING:
            raise ValueError(f"pretrain {self.pretrain!r} is none of {', '.join(PRETRAINING)}")
        if self.lesson not in LESSONS:
            raise ValueError(f"lesson {self.lesson!r} is none of {', '.join(LESSONS)}")
        if not 0 <= self.neighbours <= MOST:
            raise ValueError(f"neighbours must be from 0 to {MOST}, got {self.neighbours}")
        if not 0 < self.carried <= 1:
            raise ValueError(f"carried must be above 0 and at most 1, got {self.carried}")
        if self.neighbours and self.lesson != BEGINNINGS:
            raise ValueError(f"an edge with neighbours is taught {BEGINNINGS}, not {self.lesson}")
        if self.cloud.architecture != "sasrec":
            raise ValueError("the cloud's architecture is sasrec; two-tower is for the edge")
        if self.again is not None and self.again.architecture != "sasrec":
            raise ValueError("the cloud's second network is a sasrec too")
        if (self.again is None) != (self.again_training is None):
            raise ValueError("again and again_training go together")
        if self.edge_training is None and not self._edge_may_begin_as_again:
            raise ValueError("without edge_training the edge must have the shape of again")

    @property
    def _edge_may_begin_as_again(self) -> bool:
        return self.again is not None and replace(self.again, dropout=0.0) == replace(
            self.edge, dropout=0.0
        )

    @property
    def trainings(self) -> dict[str, TrainConfig]:
        """Those there are, by the name of their field."""
        names = ("cloud_training", "again_training", "edge_training", "distillation")
        found = {name: getattr(self, name) for name in names}
        return {name: training for name, training in found.items() if training is not None}

    def seeded(self, seed: int) -> Recipe:
        """The same recipe with every die thrown from ``seed``."""
        dealt = self._trained(lambda name, each: replace(each, seed=seed + SEED_STEPS[name]))
        head, shop = replace(self.head, seed=seed), replace(self.shop, seed=seed)
        return replace(dealt, head=head, shop=shop)

    def within(self, minutes: float) -> Recipe:
        """The same recipe, its training bounded so that the whole takes about ``minutes``."""
        each_share = minutes * TRAINING_SHARE / sum(TIME_SHARES[name] for name in self.trainings)
        return self._trained(
            lambda name, each: replace(each, minutes=each_share * TIME_SHARES[name])
        )

    def at_most(self, epochs: int) -> Recipe:
        """The same recipe with at most this many epochs for each model."""
        return self._trained(
            lambda name, each: replace(
                each,
                epochs=min(each.epochs, epochs),
                evaluate_every=min(each.evaluate_every, epochs),
            )
        )

    def _trained(self, change: Callable[[str, TrainConfig], TrainConfig]) -> Recipe:
        # Any: mypy would hold every field against the type of these.
        changed: dict[str, Any] = {
            name: change(name, training) for name, training in self.trainings.items()
        }
        return replace(self, **changed)


QUICK = Recipe(
    name="quick",
    cloud=ModelShape(dim=64, blocks=2, dropout=0.2),
    cloud_training=TrainConfig(
        epochs=16, batch=128, rate=2e-3, evaluate_every=2, patience=3, minutes=4.0
    ),
    edge=ModelShape(dim=32, blocks=1, dropout=0.1),
    edge_training=TrainConfig(
        epochs=12, batch=128, rate=2e-3, evaluate_every=2, patience=3, minutes=2.0
    ),
    distillation=TrainConfig(
        epochs=8, batch=128, rate=1e-3, evaluate_every=2, patience=3, minutes=1.0
    ),
    neighbours=10.0,
)

# The cloud learns from single events: on Amazon Beauty (22,363 users, 12,101 items) that validates
# far better than whole histories did (docs/quality.md). An epoch takes 22 s of two cores.
FULL = Recipe(
    name="full",
    cloud=ModelShape(dim=64, blocks=2, dropout=0.5),
    cloud_training=TrainConfig(
        epochs=40, batch=256, rate=1e-3, evaluate_every=4, patience=3, minutes=36.0, examples=EVENTS
    ),
    edge=ModelShape(dim=32, blocks=1, dropout=0.3),
    edge_training=TrainConfig(
        epochs=60, batch=512, rate=2e-3, evaluate_every=3, patience=3, minutes=6.0
    ),
    distillation=TrainConfig(
        epochs=24, batch=512, rate=1e-3, evaluate_every=3, patience=3, minutes=10.0
    ),
    neighbours=10.0,
    ladder=(*DEFAULT_LADDER, *FEWER_NEIGHBOURS),
)

# Full's networks, and an edge with nine tenths of the catalogue, which knows what calls have lost
# by that and asks the cloud about them first (docs/quality.md).
PARTIAL = replace(FULL, name="partial", carried=0.9)

# Full's network, then a second one taught by it and its neighbours, both served; the edge begins as
# the second. Not the default: docs/quality.md has what was measured, and no gain so far.
_TAUGHT = TrainConfig(
    epochs=16,
    batch=256,
    rate=1e-3,
    evaluate_every=4,
    patience=2,
    minutes=8.0,
    products="fastest",
    schedule="linear",
)
BORN_AGAIN = replace(
    FULL,
    name="born-again",
    again=ModelShape(dim=64, blocks=2, dropout=0.4, positions="relative"),
    again_training=_TAUGHT,
    edge=ModelShape(dim=64, blocks=2, dropout=0.1, positions="relative"),
    edge_training=None,
    distillation=_TAUGHT,
    lesson=EVERY_EVENT,
    neighbours=0.0,
    ladder=DEFAULT_LADDER,
)

RECIPES = {recipe.name: recipe for recipe in (QUICK, FULL, PARTIAL, BORN_AGAIN)}

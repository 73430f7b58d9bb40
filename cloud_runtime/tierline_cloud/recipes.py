"""Two ways to build a pair of bundles: quick to see it work, full for real data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tierline_cloud.calibration import TARGET_ESCALATION, HeadConfig
from tierline_cloud.compression.rungs import DEFAULT_LADDER, Rung
from tierline_cloud.data import LEAVE_ONE_OUT, SPLITS, ShopConfig
from tierline_cloud.models.network import ARCHITECTURES
from tierline_cloud.training import TrainConfig

CLOUD_SHARE, EDGE_SHARE, DISTILLATION_SHARE = (
    0.6,
    0.14,
    0.18,
)  # of --max-minutes; the rest is for everything else

PRETRAINING = ("none", "mf", "two-tower")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A SASRec without its catalogue."""

    dim: int
    blocks: int
    dropout: float
    heads: int = 1
    architecture: str = "sasrec"  # or "two-tower", for the edge

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
    edge: ModelShape
    edge_training: TrainConfig
    distillation: TrainConfig
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
        if self.cloud.architecture != "sasrec":
            raise ValueError("the cloud's architecture is sasrec; two-tower is for the edge")

    def seeded(self, seed: int) -> Recipe:
        """The same recipe with every die thrown from ``seed``."""
        return replace(
            self,
            cloud_training=replace(self.cloud_training, seed=seed),
            edge_training=replace(self.edge_training, seed=seed + 1),
            distillation=replace(self.distillation, seed=seed + 2),
            head=replace(self.head, seed=seed),
            shop=replace(self.shop, seed=seed),
        )

    def within(self, minutes: float) -> Recipe:
        """The same recipe, its training bounded so that the whole takes about ``minutes``."""
        cloud, edge = self.cloud_training, self.edge_training
        return replace(
            self,
            cloud_training=replace(cloud, minutes=minutes * CLOUD_SHARE),
            edge_training=replace(edge, minutes=minutes * EDGE_SHARE),
            distillation=replace(self.distillation, minutes=minutes * DISTILLATION_SHARE),
        )

    def at_most(self, epochs: int) -> Recipe:
        """The same recipe with at most this many epochs for each model."""

        def shorter(training: TrainConfig) -> TrainConfig:
            every = min(training.evaluate_every, epochs)
            return replace(training, epochs=min(training.epochs, epochs), evaluate_every=every)

        return replace(
            self,
            cloud_training=shorter(self.cloud_training),
            edge_training=shorter(self.edge_training),
            distillation=shorter(self.distillation),
        )


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
)

# SASRec-CE as measured on Amazon Beauty (22,363 users, 12,101 items): level with item-kNN after
# 55 epochs, then overfitting. An epoch takes about 12 s of CPU time for the cloud, 8 for the edge.
FULL = Recipe(
    name="full",
    cloud=ModelShape(dim=64, blocks=2, dropout=0.5),
    cloud_training=TrainConfig(
        epochs=120, batch=512, rate=1e-3, evaluate_every=5, patience=3, minutes=13.0
    ),
    edge=ModelShape(dim=32, blocks=1, dropout=0.3),
    edge_training=TrainConfig(
        epochs=60, batch=512, rate=2e-3, evaluate_every=3, patience=3, minutes=4.0
    ),
    distillation=TrainConfig(
        epochs=24, batch=512, rate=1e-3, evaluate_every=3, patience=3, minutes=5.0
    ),
)

RECIPES = {recipe.name: recipe for recipe in (QUICK, FULL)}

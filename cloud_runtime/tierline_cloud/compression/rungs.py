"""What one rung of the compression ladder is made of: which network, table and graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from tierline_cloud.compression.tables import TABLE_FORMS, TableForm

NetworkName = Literal["cloud", "edge", "distilled"]
GraphForm = Literal["float32", "int8-static", "weights-8", "weights-4"]
NETWORKS: tuple[str, ...] = get_args(NetworkName)
GRAPHS: tuple[str, ...] = get_args(GraphForm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way to make a network small. ``rank`` (None: all columns) narrows the item rows,
    ``prune`` is the share of inner units cut out, ``neighbours`` how many an item a distilled
    network keeps on average (None: as many as the recipe gives its edge). Raises ValueError for
    what there is not."""

    name: str
    network: NetworkName = "distilled"
    table: TableForm = "int8"
    graph: GraphForm = "int8-static"
    rank: int | None = None
    prune: float = 0.0
    neighbours: float | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace(".", "").isalnum():
            raise ValueError(f"a rung's name is letters, digits, - and ., got {self.name!r}")
        for what, value, known in (
            ("network", self.network, NETWORKS),
            ("table", self.table, TABLE_FORMS),
            ("graph", self.graph, GRAPHS),
        ):
            if value not in known:
                raise ValueError(
                    f"rung {self.name}: {what} {value!r} is none of {', '.join(known)}"
                )
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rung {self.name}: rank must be at least 1, got {self.rank}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"rung {self.name}: prune must be in [0, 1), got {self.prune}")
        if self.neighbours is not None and self.neighbours < 0:
            raise ValueError(
                f"rung {self.name}: neighbours must not be negative, got {self.neighbours}"
            )

    def to_json(self) -> dict[str, object]:
        """Plain values for a stage's key; neighbours left to the recipe go without saying, as
        before rungs had any."""
        values = asdict(self)
        if self.neighbours is None:
            del values["neighbours"]
        return values


DEFAULT_LADDER = (
    Rung(name="cloud-float16", network="cloud", table="float16", graph="float32"),
    Rung(name="cloud-int8-table", network="cloud", graph="float32"),
    Rung(name="cloud-int8", network="cloud"),
    Rung(name="cloud-int8-weights", network="cloud", graph="weights-8"),
    Rung(name="cloud-int4", network="cloud", table="int4", graph="weights-8"),
    Rung(name="cloud-pruned-int8", network="cloud", prune=0.5),
    Rung(name="cloud-rank32-int8", network="cloud", rank=32),
    Rung(name="distilled-float32", table="float32", graph="float32"),
    Rung(name="distilled-int8"),
    Rung(name="distilled-int4", table="int4", graph="weights-4"),
)
# For an edge that carries more: what is left of it with fewer.
FEWER_NEIGHBOURS = (
    Rung(name="distilled-int8-5-neighbours", neighbours=5),
    Rung(name="distilled-int4-4-neighbours", table="int4", graph="weights-4", neighbours=4),
)

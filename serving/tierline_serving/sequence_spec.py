"""Kind ``sequence``: what a manifest says of a catalogue that histories are met with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tierline_serving._fields import Fields, file_path, integer, name, number, refuse

MAX_ITEMS: Final = 2**31 - 2  # kernels index rows with int32, and row 0 is padding
MAX_WINDOW: Final = 2**10  # events: what one recommendation looks up grows with it


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighboursSpec:
    """The few best neighbours of every item, and what they add to the network's scores:
    ``weight · log(1 + share / floor)``, where an item's share is its part of the summed weights of
    the last ``window`` events' neighbours, ``decay`` to the power of an event's age. Four listed
    npy files: ``counts`` uint8 [items + 1] of neighbours an item; ``ids`` (uint16 or uint32) and
    ``codes`` (uint8) of all pairs, item by item; ``levels`` float32 [256], code → weight."""

    counts: str
    ids: str
    codes: str
    levels: str
    weight: float
    decay: float
    window: int
    floor: float

    def paths(self) -> Iterator[str]:
        """The files the table is made of."""
        return iter((self.counts, self.ids, self.codes, self.levels))


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedSpec:
    """An edge that carries ``items`` of the catalogue's items. Two listed npy files: ``ids``
    (uint16 or uint32 [items]) in rising order, the item of each row from 1 on; ``lost`` uint8
    [whole catalogue + 1]. ``decay``, ``window`` and ``above`` say when a history has lost too much
    (``tierline_serving.carried``)."""

    items: int
    ids: str
    lost: str
    decay: float
    window: int
    above: float

    def paths(self) -> Iterator[str]:
        """The files it is made of."""
        return iter((self.ids, self.lost))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSpec:
    """Kind ``sequence``: items 1..``items``, histories of at most ``max_history``, rows of
    ``dim``; ``table`` is None where the torch module holds its own embeddings; ``neighbours`` is
    None where scores are the network's alone (or, in a torch module, its own affair); ``carried``
    is None where the table has every item."""

    items: int
    max_history: int
    dim: int
    table: str | None = None
    neighbours: NeighboursSpec | None = None
    carried: CarriedSpec | None = None

    @property
    def table_items(self) -> int:
        """The table's rows behind padding; the last stands in for what is not carried."""
        return self.items if self.carried is None else self.carried.items + 1

    def paths(self) -> Iterator[tuple[str, str]]:
        """Every (field, path) of a file named here."""
        for which, part in (("neighbours", self.neighbours), ("carried", self.carried)):
            if part is not None:
                for path in part.paths():
                    yield f"sequence.{which}", path


def read_sequence_spec(value: object, path: str) -> SequenceSpec:
    """Read ``manifest.sequence``. Raises BundleRefused naming the field."""
    fields = Fields(value, path)
    spec = SequenceSpec(
        items=fields.need("items", integer(1, MAX_ITEMS)),
        max_history=fields.need("max_history", integer(1, 2**20)),
        dim=fields.need("dim", integer(1, 2**20)),
        table=fields.maybe("table", name),
        neighbours=fields.maybe("neighbours", _read_neighbours),
        carried=fields.maybe("carried", _read_carried),
    )
    fields.finish()
    if spec.carried is not None and spec.carried.items > spec.items:
        refuse(f"{path}.carried.items", f"is {spec.carried.items}, of {spec.items} items")
    return spec


def _read_neighbours(value: object, path: str) -> NeighboursSpec:
    fields = Fields(value, path)
    spec = NeighboursSpec(
        counts=fields.need("counts", file_path),
        ids=fields.need("ids", file_path),
        codes=fields.need("codes", file_path),
        levels=fields.need("levels", file_path),
        weight=fields.need("weight", number(0.0, 1e6)),
        decay=fields.need("decay", number(1e-6, 1.0)),
        window=fields.need("window", integer(1, MAX_WINDOW)),
        floor=fields.need("floor", number(1e-12, 1.0)),
    )
    fields.finish()
    return spec


def _read_carried(value: object, path: str) -> CarriedSpec:
    fields = Fields(value, path)
    spec = CarriedSpec(
        items=fields.need("items", integer(1, MAX_ITEMS)),
        ids=fields.need("ids", file_path),
        lost=fields.need("lost", file_path),
        decay=fields.need("decay", number(1e-6, 1.0)),
        window=fields.need("window", integer(1, MAX_WINDOW)),
        above=fields.need("above", number(0.0, 1.0)),
    )
    fields.finish()
    return spec

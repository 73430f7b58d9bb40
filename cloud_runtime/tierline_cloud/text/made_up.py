"""A seeded made-up shop to search: products from word lists, queries that say it in other words.

A product is a brand, a colour, a thing, a feature and an audience, each written with one of its
synonyms. A query names two or three of them, each with whichever synonym the dice choose; relevant
is every product that has them all. No product is written by a person, so figures on it compare ways
to search with each other, on this shop, and say nothing of any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

BRANDS: Final = (
    "Alpino", "Borealis", "Corvid", "Dunmore", "Estrella", "Fjordline", "Granata", "Halcyon",
    "Ironbark", "Juniper", "Kestrel", "Lumen", "Marlow", "Northway", "Orchid", "Pellier",
)  # fmt: skip
COLOURS: Final = (
    ("red", "crimson"), ("blue", "navy"), ("green", "olive"), ("black", "jet black"),
    ("white", "ivory"), ("grey", "charcoal"), ("brown", "tan"), ("pink", "rose"),
)  # fmt: skip
THINGS: Final = (
    ("sneakers", "running shoes", "trainers"), ("boots", "hiking footwear"),
    ("jacket", "coat", "parka"), ("trousers", "pants", "slacks"), ("sweater", "pullover", "jumper"),
    ("backpack", "rucksack"), ("sofa", "couch", "settee"), ("lamp", "desk light"),
    ("kettle", "water boiler"), ("mug", "coffee cup"), ("blanket", "throw"),
    ("headphones", "earphones"), ("laptop", "notebook computer"), ("bicycle", "bike"),
    ("tent", "camping shelter"), ("lotion", "body cream"), ("shampoo", "hair wash"),
    ("knife", "kitchen blade"), ("towel", "bath linen"), ("watch", "wristwatch"),
)  # fmt: skip
FEATURES: Final = (
    ("waterproof", "keeps the rain out"), ("lightweight", "weighs almost nothing"),
    ("foldable", "folds away"), ("organic", "from natural ingredients"),
    ("wireless", "without cables"), ("insulated", "keeps warm"), ("durable", "built to last"),
    ("quiet", "makes no noise"),
)  # fmt: skip
AUDIENCES: Final = (
    ("for men", "for him"), ("for women", "for her"), ("for kids", "for children"),
    ("for beginners", "for first-time users"), ("for travel", "for trips"),
    ("for professionals", "for experts"),
)  # fmt: skip
_KINDS: Final = (COLOURS, THINGS, FEATURES, AUDIENCES)  # what a query may name
THING: Final = 1  # always named: nobody searches for "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeUpShop:
    """Texts of items 1..n, queries, and each query's relevant items (ascending ids, at least 1)."""

    texts: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: tuple[tuple[int, ...], ...]


def make_shop(items: int, queries: int, seed: int) -> MadeUpShop:
    """A shop of so many items and queries; the same seed gives the same shop."""
    dice = np.random.default_rng(seed)
    traits = np.stack([dice.integers(len(kind), size=items) for kind in _KINDS], axis=1)
    texts = [_product(row, dice) for row in traits]
    asked: list[str] = []
    relevant: list[tuple[int, ...]] = []
    for _ in range(queries):
        wanted = traits[dice.integers(items)]
        others = [kind for kind in range(len(_KINDS)) if kind != THING]
        chosen = [THING, *dice.choice(others, size=dice.integers(1, 3), replace=False)]
        has_all = (traits[:, chosen] == wanted[chosen]).all(axis=1)
        asked.append(" ".join(_said(_KINDS[kind][wanted[kind]], dice) for kind in sorted(chosen)))
        relevant.append(tuple(int(item) + 1 for item in np.flatnonzero(has_all)))
    return MadeUpShop(texts=tuple(texts), queries=tuple(asked), relevant=tuple(relevant))


def _product(traits: np.ndarray[tuple[int], np.dtype[np.int64]], dice: np.random.Generator) -> str:
    colour, thing, feature, audience = (
        _said(kind[trait], dice) for kind, trait in zip(_KINDS, traits, strict=True)
    )
    brand = BRANDS[dice.integers(len(BRANDS))]
    model = f"{brand[:2].upper()}-{dice.integers(100, 1000)}"
    return f"{brand} {model} {colour} {thing} {audience}, {feature}"


def _said(synonyms: tuple[str, ...], dice: np.random.Generator) -> str:
    return synonyms[dice.integers(len(synonyms))]

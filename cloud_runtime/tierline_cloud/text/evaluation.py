"""How well a made-up shop is searched: words alone, one vector, late interaction, both in a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.evaluation.metrics import paired_bootstrap
from tierline_cloud.tables import grid
from tierline_cloud.text.encoding import Encoded, Role, TextEncoder
from tierline_cloud.text.folder import read_folder
from tierline_cloud.text.index import TextIndex, build_index
from tierline_cloud.text.made_up import MadeUpShop, make_shop
from tierline_cloud.text.packing import RESCORED
from tierline_kernels import dequantize_rows

CUTOFF = 10
K1, B = 1.2, 0.75  # Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", §3
BASE, NEW = "one vector", "vectors, then tokens"

Document = dict[str, Any]  # Any: plain JSON values
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]


def evaluate_folder(folder: Path, items: int, queries: int, seed: int) -> Document:
    """Search a made-up shop with the encoder of a folder; the figures as JSON values."""
    return evaluate(read_folder(folder), make_shop(items, queries, seed), seed)


def evaluate(encoder: TextEncoder, shop: MadeUpShop, seed: int) -> Document:
    """NDCG, recall and reciprocal rank at 10 of each way to search, and by how much rescoring beats
    one vector (paired bootstrap over queries)."""
    index, fidelity = build_index(encoder, shop.texts)
    asked = encoder.encode_all(shop.queries, Role.QUERY)
    found = _lists(index, asked, shop)
    judged = {name: judge(lists, shop.relevant) for name, lists in found.items()}
    gain = paired_bootstrap(judged[NEW]["ndcg"], judged[BASE]["ndcg"], seed=seed)
    return {
        "items": len(shop.texts),
        "queries": len(shop.queries),
        "relevant": float(np.mean([len(each) for each in shop.relevant])),
        "seed": seed,
        "int8": fidelity.mean,
        "ways": {
            name: {f"{key}@{CUTOFF}": float(values.mean()) for key, values in each.items()}
            for name, each in judged.items()
        },
        "gain": {"mean": gain.mean, "low": gain.low, "high": gain.high},
    }


def table(document: Mapping[str, Any]) -> str:  # Any: as Document
    """The figures for a person."""
    keys = [f"{key}@{CUTOFF}" for key in ("ndcg", "recall", "mrr")]
    rows = [
        [name, *(f"{figures[key]:.4f}" for key in keys)]
        for name, figures in document["ways"].items()
    ]
    gain = document["gain"]
    return "\n".join(
        [
            f"made-up shop: {document['items']:,} items, {document['queries']:,} queries with "
            f"{document['relevant']:.1f} relevant items each, seed {document['seed']}",
            "",
            grid(["way to search", *(key.upper() for key in keys)], rows),
            "",
            f"{NEW} − {BASE}, NDCG@{CUTOFF}: {gain['mean']:+.4f} [{gain['low']:+.4f}, "
            f"{gain['high']:+.4f}] (95 %, paired over queries)",
        ]
    )


def judge(lists: Sequence[Ids], relevant: Sequence[tuple[int, ...]]) -> dict[str, Doubles]:
    """Per query, of a list of at least 10: NDCG with binary gains (Järvelin & Kekäläinen 2002),
    recall (of at most 10) and reciprocal rank, each at 10."""
    discounts = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    figures = np.zeros((3, len(lists)))
    for place, (items, wanted) in enumerate(zip(lists, relevant, strict=True)):
        hits = np.isin(items[:CUTOFF], wanted)
        possible = min(len(wanted), CUTOFF)
        gained = float(discounts[: len(hits)][hits].sum())
        first = 1.0 / (1 + int(hits.argmax())) if hits.any() else 0.0
        figures[:, place] = gained / discounts[:possible].sum(), hits.sum() / possible, first
    return dict(zip(("ndcg", "recall", "mrr"), figures, strict=True))


def _lists(index: TextIndex, asked: Sequence[Encoded], shop: MadeUpShop) -> dict[str, list[Ids]]:
    every = np.arange(1, index.items + 1)
    rows = dequantize_rows(index.vectors)[1:]
    words = Words(shop.texts)
    return {
        "words alone (BM25)": [_best(words.scores(query)) for query in shop.queries],
        f"{BASE}, float32 query": [_best(rows @ query.vector) for query in asked],
        BASE: [index.retrieve(query.vector, CUTOFF) for query in asked],
        "tokens of every item": [_best(index.score(query.tokens, every)) for query in asked],
        NEW: [index.search(query, CUTOFF, RESCORED)[0] for query in asked],
    }


def _best(scores: NDArray[np.floating[Any]]) -> Ids:
    """The ids of the best scores, ties by id."""
    order: Ids = np.argsort(-scores, kind="stable")[:CUTOFF] + 1
    return order


class Words:
    """BM25 over lower-case words: what a search without any model finds."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(_words(text)) for text in texts]
        lengths = np.array([sum(counts.values()) for counts in self._counts], np.float64)
        self._norms = K1 * (1 - B + B * lengths / lengths.mean())
        holding = Counter(word for counts in self._counts for word in counts)
        total = len(texts)
        self._weights = {
            word: math.log(1 + (total - count + 0.5) / (count + 0.5))
            for word, count in holding.items()
        }

    def scores(self, query: str) -> Doubles:
        """Every text's score for a query."""
        scores = np.zeros(len(self._counts))
        for word in _words(query):
            if word in self._weights:
                often = np.array([counts[word] for counts in self._counts], np.float64)
                scores += self._weights[word] * often * (K1 + 1) / (often + self._norms)
        return scores


def _words(text: str) -> list[str]:
    return text.lower().replace(",", " ").split()

"""What every bundle really answers to every visit, so that each answer can be held against it.

An answer is right when it is what the bundle it names answers to this visit when nobody disturbs
it; what a client makes up on its own is right when it says so and is the popularity prior, or an
answer some bundle gave to this visit. Pure but for the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierline import Answer

K = 10  # items a call asks for, and the K of NDCG@K
TOLERANCE = 2e-3  # relative and absolute: batches may change the last digits of a score

SERVED_AT = {"edge": ("edge",), "cloud": ("cloud", "standby")}

Given = tuple[list[int], list[float]]  # items, scores


@dataclass(slots=True)
class Truth:
    """By bundle, then by visit: the items and scores it answers with. ``prior`` are the items by
    popularity, best first; ``tiers`` says which tier a bundle belongs to."""

    answers: dict[str, list[Given]] = field(default_factory=dict)
    tiers: dict[str, str] = field(default_factory=dict)
    targets: list[int] = field(default_factory=list)

    def alias(self, bundle: str, tier: str) -> None:
        """Another version of the same model: it answers as the one of this tier does."""
        same = next(name for name, kind in self.tiers.items() if kind == tier)
        self.answers[bundle], self.tiers[bundle] = self.answers[same], tier

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        document = {"answers": self.answers, "tiers": self.tiers, "targets": self.targets}
        path.write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read it back."""
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(document["answers"], document["tiers"], document["targets"])

    def complaint(self, visit: int, answer: Answer) -> str:
        """What is wrong with an answer to this visit; "" when nothing is."""
        if answer.items is None or len(answer.items) != len(answer.scores):
            return "the answer has no items"
        given = ([int(item) for item in answer.items], [float(score) for score in answer.scores])
        if not all(map(math.isfinite, given[1])):
            return "a score is no number"
        if answer.tier == "client":
            return self._made_up(visit, answer, given)
        expected = self.answers.get(answer.bundle)
        if expected is None:
            return f"no such bundle is served: {answer.bundle}"
        if answer.tier not in SERVED_AT[self.tiers[answer.bundle]]:
            return f"bundle {answer.bundle} is not of tier {answer.tier}"
        return "" if _same(expected[visit], given) else f"not what {answer.bundle} answers"

    def gain(self, visit: int, items: Sequence[int]) -> float:
        """NDCG@K of this list for this visit's one target."""
        target = self.targets[visit]
        best = [int(item) for item in items[:K]]
        return 1.0 / math.log2(best.index(target) + 2) if target in best else 0.0

    def full_gain(self, visit: int) -> float:
        """NDCG@K of what the cloud's bundle would have answered."""
        for bundle, tier in self.tiers.items():
            if tier == "cloud":
                return self.gain(visit, self.answers[bundle][visit][0])
        return 0.0

    def _made_up(self, visit: int, answer: Answer, given: Given) -> str:
        if answer.quality != "degraded":
            return f"made up by the client and called {answer.quality}"
        if answer.reason.startswith("popularity_prior"):
            falling = all(a >= b for a, b in zip(given[1], given[1][1:], strict=False))
            return "" if falling and len(set(given[0])) == len(given[0]) else "not a ranking"
        known = [lists[visit] for lists in self.answers.values()]
        return "" if any(_same(one, given) for one in known) else "nobody ever answered this"


def _same(expected: Given, given: Given) -> bool:
    if len(expected[0]) != len(given[0]):
        return False
    close = all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for a, b in zip(expected[1], given[1], strict=True)
    )
    # Two items with the same score may change places.
    return close and len(set(expected[0]) & set(given[0])) >= len(given[0]) - 1

"""How long a batch of so many rows takes, fitted on line. Pure.

Batches fall into buckets by size, a power of two each. A bucket keeps the decayed means of its
batches' rows and seconds; between two buckets the cost runs straight from one mean to the other,
never downwards. Beyond them, and while there is one bucket only, it runs on with the slope of one
straight line fitted to all batches (exponentially weighted least squares, never negative).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

DECAY: Final = 0.95  # weight of a batch against the next one: the last 20 batches decide
FORGOTTEN: Final = 0.02  # a bucket of this weight, some 76 batches old, says nothing any more


class CostModel:
    """Predicted seconds by rows; ``batches`` counts what it learned from."""

    def __init__(self, decay: float = DECAY) -> None:
        self._decay = decay
        self._w = self._x = self._y = self._xx = self._xy = 0.0
        self._buckets: dict[int, tuple[float, float, float]] = {}  # weight, Σ rows, Σ seconds
        self._rows: list[float] = []
        self._seconds: list[float] = []
        self._slope = 0.0
        self.dearest_row = 0.0  # seconds a row of the size of batch whose rows cost most
        self.batches = 0

    def add(self, rows: int, seconds: float) -> None:
        """Take in one finished batch."""
        d = self._decay
        self._w = self._w * d + 1.0
        self._x = self._x * d + rows
        self._y = self._y * d + seconds
        self._xx = self._xx * d + rows * rows
        self._xy = self._xy * d + rows * seconds
        self.batches += 1
        bucket = bucket_of(rows)
        faded = {}
        for size, (weight, x, y) in self._buckets.items():
            if weight * d > FORGOTTEN:
                faded[size] = (weight * d, x * d, y * d)
        weight, x, y = faded.get(bucket, (0.0, 0.0, 0.0))
        faded[bucket] = (weight + 1.0, x + rows, y + seconds)
        self._buckets = faded
        self._solve()

    def seconds(self, rows: int) -> float:
        """Predicted seconds of one batch; 0 before the first was seen."""
        if not self._rows:
            return 0.0
        place = bisect_left(self._rows, rows)
        if place == len(self._rows):
            return self._seconds[-1] + (rows - self._rows[-1]) * self._slope
        right, cost = self._rows[place], self._seconds[place]
        if place == 0:
            return max(0.0, cost - (right - rows) * self._slope)
        left, before = self._rows[place - 1], self._seconds[place - 1]
        return before + (cost - before) * (rows - left) / (right - left)

    def rows_within(self, seconds: float, most: int) -> int:
        """The most rows, at most ``most``, one batch is predicted to score in so many seconds."""
        if not self._rows:
            return 0
        place = bisect_right(self._seconds, seconds)
        if place == 0:
            over = self._seconds[0] - seconds
            rows = self._rows[0] - over / self._slope if self._slope else 0.0
        elif place == len(self._rows):
            under = seconds - self._seconds[-1]
            rows = self._rows[-1] + under / self._slope if self._slope else float(most)
        else:
            left, before = self._rows[place - 1], self._seconds[place - 1]
            share = (seconds - before) / (self._seconds[place] - before)
            rows = left + (self._rows[place] - left) * share
        return int(max(0.0, min(float(most), rows + 1e-9)))  # rows may be infinite

    def _solve(self) -> None:
        mean_x, mean_y = self._x / self._w, self._y / self._w
        variance = self._xx / self._w - mean_x * mean_x
        # Batches all of one size tell nothing of the slope. Then every row is priced at the mean,
        # the dearest slope a fit may have: it asks too much of large batches, never too little.
        if variance > 1e-6 * mean_x * mean_x:
            slope = (self._xy / self._w - mean_x * mean_y) / variance
        else:
            slope = mean_y / mean_x
        self._slope = min(max(slope, 0.0), mean_y / mean_x)
        self._rows, self._seconds = [], []
        seconds = self.dearest_row = 0.0
        for size in sorted(self._buckets):
            weight, x, y = self._buckets[size]
            rows, seconds = x / weight, max(seconds, y / weight)
            self._rows.append(rows)
            self._seconds.append(seconds)
            self.dearest_row = max(self.dearest_row, seconds / rows)


def bucket_of(rows: int) -> int:
    """The bucket a batch counts in: its rows rounded up to a power of two."""
    return 1 << max(0, rows - 1).bit_length()

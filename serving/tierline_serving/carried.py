"""An edge that carries part of the catalogue: which items, and whose calls it knows too little of.

The bundle numbers its own rows: 0 is padding, rows 1 to m are the items it carries in order of
their ids, and row m + 1 stands in for every item it does not carry. It recommends what it carries.
``lost`` says of each item of the whole catalogue how much of what the cloud's neighbours say of it
points to one item that is missing here: a call whose last events have lost much is doubted before
all others, whatever the network thinks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_serving.neighbours import Ids
from tierline_serving.requests import HISTORY

Shares = NDArray[np.float64]

STEPS: Final = 255  # of a share stored in a byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """``ids`` (rising) are the items of rows 1 to m; ``lost`` is each item's lost share in STEPS.
    Of a history, an event's lost share counts ``decay`` to the power of its age, over the last
    ``window`` events; a history above ``above`` is doubted first. Raises ValueError."""

    ids: NDArray[Any]  # uint16 or uint32 [m]
    lost: NDArray[np.uint8]  # [items + 1]
    decay: float
    window: int
    above: float
    _rows: Ids = field(init=False, repr=False, compare=False)  # [items + 1]
    _young: Shares = field(init=False, repr=False, compare=False)  # of each age

    def __post_init__(self) -> None:
        items, ids = self.lost.size - 1, self.ids.astype(np.int64)
        if not ids.size or ids[0] < 1 or ids[-1] > items or (np.diff(ids) <= 0).any():
            raise ValueError(f"the carried ids must rise and be from 1 to {items}")
        rows = np.full(items + 1, ids.size + 1)
        rows[0], rows[ids] = 0, np.arange(1, ids.size + 1)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_young", self.decay ** np.arange(self.window))

    @classmethod
    def chosen(cls, ids: Ids, lost: Shares, *, decay: float, window: int, above: float) -> Self:
        """Of shares from 0 to 1 an item [items + 1]."""
        wide = np.uint16 if lost.size - 1 <= np.iinfo(np.uint16).max else np.uint32
        coded = np.rint(lost * STEPS).astype(np.uint8)
        return cls(ids=ids.astype(wide), lost=coded, decay=decay, window=window, above=above)

    @property
    def stand_in(self) -> int:
        """The row of whatever is not carried."""
        return self.ids.size + 1

    def rows_of(self, items: NDArray[Any]) -> Ids:
        """The rows of items by their ids, padding included."""
        found: Ids = self._rows[items.astype(np.int64, copy=False)]
        return found

    def items_at(self, rows: Ids) -> Ids:
        """The ids of carried rows; −1, where there were too few, stays."""
        found: Ids = np.where(rows < 1, rows, self.ids[np.maximum(rows, 1) - 1].astype(np.int64))
        return found

    def localised(self, request: ScoreRequest) -> ScoreRequest:
        """A request by rows instead of ids."""
        query = {HISTORY: self.rows_of(request.query[HISTORY])}
        candidates = request.candidates
        if candidates is not None:
            candidates = {CANDIDATE_IDS: self.rows_of(candidates[CANDIDATE_IDS])}
        return request._replace(query=query, candidates=candidates)

    def lost_of(self, histories: Sequence[NDArray[Any]]) -> Shares:
        """What each history has lost, from 0 to 1; nothing of an empty one."""
        found = np.zeros(len(histories))
        for row, history in enumerate(histories):
            recent = history[: -self.window - 1 : -1].astype(np.int64, copy=False)
            if recent.size:
                young = self._young[: recent.size]
                found[row] = (self.lost[recent] * young).sum() / (STEPS * young.sum())
        return found

    def doubt(self, lost: float, uncertainty: float) -> float:
        """The uncertainty of a call that has lost so much: above ½ where that is too much, more the
        more it is; below ½ it is the network's own."""
        return (1.0 + lost) / 2 if lost > self.above else uncertainty / 2

    def doubts(self, histories: Sequence[NDArray[Any]], uncertainty: Shares) -> Shares:
        """``doubt`` of whole histories [B]."""
        pairs = zip(self.lost_of(histories), uncertainty, strict=True)
        return np.array([self.doubt(*pair) for pair in pairs])

    def told(self, request: ScoreRequest, reply: ScoreReply) -> ScoreReply:
        """A reply by rows as one by ids; ``request`` names ids. Of candidates that are not carried
        their share is lost too."""
        lost = float(self.lost_of([request.query[HISTORY]])[0])
        if request.candidates is not None:
            rows = self.rows_of(request.candidates[CANDIDATE_IDS])
            lost = max(lost, float(np.mean(rows == self.stand_in)))
        assert reply.uncertainty is not None  # the manifest's reader saw to it
        return reply._replace(
            items=None if reply.items is None else self.items_at(reply.items),
            uncertainty=self.doubt(lost, reply.uncertainty),
        )

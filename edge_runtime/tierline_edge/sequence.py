"""Scores kind ``sequence``: ids → look-up → ONNX encoder → candidates or the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_edge.embeddings import ItemTable
from tierline_edge.info import describe
from tierline_edge.session import Session
from tierline_serving.bundle import Bundle
from tierline_serving.requests import HISTORY, SequenceRequests


class SequenceScorer:
    """One sequence bundle on one ONNX session; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        spec = bundle.manifest.sequence
        if spec is None or spec.table is None:
            raise BundleRefused(f"bundle {bundle.id}: sequence.table names no item table")
        self._requests = SequenceRequests(spec)
        self._table = ItemTable(bundle, spec.table)
        self._session = session
        self._bundle = bundle
        head = bundle.manifest.uncertainty
        self._outputs = ["hidden"] if head is None else ["hidden", head.output]
        self._threshold = None if head is None else head.threshold
        self.info = describe(bundle, session, kernels=self._table.backend)

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        """Candidates, or 1 for the whole catalogue: encoding dominates both."""
        return 1 if request.candidates is None else len(request.candidates[CANDIDATE_IDS])

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        ids = self._requests.pad(requests)
        feed = {"embedded": self._table.look_up(ids), "mask": (ids > 0).astype(np.float32)}
        outputs = self._session.run(self._outputs, feed)
        hidden = outputs[0]
        doubts = outputs[1].tolist() if len(outputs) > 1 else [None] * len(requests)
        if not np.isfinite(hidden).all():
            raise ModelFailed("the encoder answered numbers that are not finite")
        catalogue = self._recommend(requests, hidden)
        replies = []
        for row, request in enumerate(requests):
            items = None
            if request.candidates is None:
                scores, items = catalogue[row]
            else:
                wanted = request.candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
                scores = self._table.look_up(wanted) @ hidden[row]
            replies.append(
                ScoreReply(
                    model=self.info.name,
                    bundle=self.info.bundle,
                    scores=scores,
                    items=items,
                    uncertainty=doubts[row],
                    threshold=self._threshold,
                )
            )
        return replies

    def _recommend(
        self, requests: Sequence[ScoreRequest], hidden: NDArray[np.float32]
    ) -> dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The best items of each request without candidates, its history and padding left out."""
        rows = [i for i, request in enumerate(requests) if request.candidates is None]
        if not rows:
            return {}
        seen = [np.append(requests[i].query[HISTORY].astype(np.int64), 0) for i in rows]
        offsets = np.cumsum([0, *(len(each) for each in seen)], dtype=np.int64)
        most = max(requests[i].k or 1 for i in rows)
        found = self._table.best(hidden[rows], most, (np.concatenate(seen), offsets))
        return {
            row: (found.values[i, : requests[row].k], found.indices[i, : requests[row].k])
            for i, row in enumerate(rows)
        }

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's popularity prior, float32 [n_items + 1]."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the session goes with this object."""

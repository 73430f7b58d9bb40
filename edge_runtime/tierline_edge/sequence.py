"""Scores kind ``sequence``: ids → look-up → ONNX encoder → candidates or the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_edge.embeddings import (
    ItemTable,
    Lists,
    open_carried,
    open_items,
    open_neighbours,
)
from tierline_edge.info import describe
from tierline_edge.session import Session
from tierline_kernels.operations import TopK
from tierline_serving.boosted import left_out, with_boosted
from tierline_serving.bundle import Bundle
from tierline_serving.finite import all_finite
from tierline_serving.neighbours import Boosts
from tierline_serving.requests import HISTORY, SequenceRequests
from tierline_serving.sequence_spec import SequenceSpec

Best = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and ids, best first

PROBES = 16  # random histories that show at load whether a row's company changes its state


class SequenceScorer:
    """One sequence bundle on one ONNX session; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        spec = bundle.manifest.sequence
        if spec is None or spec.table is None:
            raise BundleRefused(f"bundle {bundle.id}: sequence.table names no item table")
        self._requests = SequenceRequests(spec)
        self._table = open_items(bundle, spec.table, session)
        self._neighbours = open_neighbours(bundle)
        self._carried = open_carried(bundle)
        # Never recommended: padding, and the row that stands in for what is not carried.
        self._barred = np.array([0] if spec.carried is None else [0, spec.table_items])
        self._session = session
        self._bundle = bundle
        head = bundle.manifest.uncertainty
        self._outputs = ["hidden"] if head is None else ["hidden", head.output]
        self._threshold = None if head is None else head.threshold
        self._dim = spec.dim
        _check_graph(bundle, session, self._outputs)
        self._least = 2 if self._answers_differ_alone(spec) else 1
        self.info = describe(bundle, session, kernels=self._table.backend)

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        """Candidates, or 1 for the whole catalogue: encoding dominates both."""
        return 1 if request.candidates is None else len(request.candidates[CANDIDATE_IDS])

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        carried = self._carried
        if carried is None:
            return self._score(requests)
        replies = self._score([carried.localised(request) for request in requests])
        return [carried.told(*pair) for pair in zip(requests, replies, strict=True)]

    def _score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Items here are rows of the table: their ids, unless it has a part of the catalogue."""
        ids = self._requests.pad(requests)
        if len(ids) < self._least:
            ids = np.repeat(ids, self._least, axis=0)
        # Histories and candidates in one look-up: its checks cost more than reading a few rows.
        wanted = [
            request.candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
            for request in requests
            if request.candidates is not None
        ]
        on_host = self._for_host(ids)
        start = len(on_host)
        rows = self._table.look_up(np.concatenate((on_host, *wanted)))
        boosts = None
        if self._neighbours is not None:
            boosts = self._neighbours.boosts([request.query[HISTORY] for request in requests])
        hidden, doubts, catalogue = self._meet(requests, ids, rows[:start], boosts)
        info, threshold = self.info, self._threshold
        products = _products(requests, rows[start:], hidden)
        replies, start = [], 0
        for row, request in enumerate(requests):
            items = None
            if request.candidates is None:
                scores, items = catalogue[row]
            else:
                candidates = request.candidates[CANDIDATE_IDS]
                stop = start + len(candidates)
                scores = products[start:stop]
                if boosts is not None:
                    scores += boosts.at(row, candidates)
                start = stop
            replies.append(
                ScoreReply(info.name, info.bundle, scores, items, doubts[row], threshold)
            )
        return replies

    def _for_host(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The histories' ids whose rows the host must see: none where the device encodes."""
        return ids.reshape(-1) if isinstance(self._table, ItemTable) else ids[:0].reshape(-1)

    def _encode(
        self, ids: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[float | None]]:
        """States [B, d] and uncertainties of left-padded ids [B, L] with their rows [B · L, d]."""
        if isinstance(self._table, ItemTable):
            embedded = rows.reshape(*ids.shape, self._dim)
            outputs = self._session.run(
                self._outputs, {"embedded": embedded, "mask": (ids > 0).astype(np.float32)}
            )
        else:
            outputs = self._table.encode(self._session, ids, self._outputs)
        return self._checked(outputs, len(ids))

    def _checked(
        self, outputs: list[NDArray[np.float32]], count: int
    ) -> tuple[NDArray[np.float32], list[float | None]]:
        """The encoder's outputs for ``count`` rows. Raises ModelFailed for what is none."""
        _check_output("hidden", outputs[0], (count, self._dim))
        if len(outputs) == 1:
            return outputs[0], [None] * count
        _check_output(self._outputs[1], outputs[1], (count,))
        doubts: list[float | None] = outputs[1].tolist()
        return outputs[0], doubts

    def _answers_differ_alone(self, spec: SequenceSpec) -> bool:
        """Whether one row is encoded otherwise alone than in company. ONNX Runtime sums a middle
        axis in another order when the batch axis is 1; from two rows on it does not matter how
        many there are. Such a graph is never run on one row, so that batch-mates change nothing."""
        dice = np.random.default_rng(0)
        ids = dice.integers(1, spec.table_items + 1, (PROBES, spec.max_history))
        ids[np.arange(spec.max_history) < dice.integers(0, spec.max_history, (PROBES, 1))] = 0
        states, doubts = self._encode(ids, self._table.look_up(ids))
        alone = (self._encode(row, self._table.look_up(row)) for row in np.split(ids, PROBES))
        return any(
            state[0].tobytes() != states[row].tobytes() or doubt[0] != doubts[row]
            for row, (state, doubt) in enumerate(alone)
        )

    def _meet(
        self, requests: Sequence[ScoreRequest], ids: NDArray[np.int64], rows: NDArray[np.float32],
        boosts: Boosts | None,
    ) -> tuple[NDArray[np.float32], list[float | None], dict[int, Best]]:  # fmt: skip
        """States and uncertainties of all, and for each request without candidates its best items,
        its history and padding left out. On a device one plan answers all three."""
        asked = [i for i, request in enumerate(requests) if request.candidates is None]
        if not asked:
            return *self._encode(ids, rows), {}
        wanted = [requests[i] for i in asked]
        most = max(request.k or 1 for request in wanted)
        seen = self._seen(wanted, len(wanted))
        near = boosts if boosts is None or len(asked) == len(requests) else boosts.take(asked)
        if isinstance(self._table, ItemTable):
            hidden, doubts = self._encode(ids, rows)
            barred = seen if near is None else left_out(seen, near)
            found = self._table.best(hidden[asked], most, barred)
        else:
            every = self._seen(requests, len(ids))
            barred = every if boosts is None else left_out(every, boosts)
            outputs, answered = self._table.recommend(
                self._session, ids, self._outputs, most, barred
            )
            hidden, doubts = self._checked(outputs, len(ids))
            found = TopK(answered.values[asked], answered.indices[asked])
        if near is not None:
            found = with_boosted(found, hidden[asked], self._table.rows, near, seen)
        best = {
            row: (found.values[i, : requests[row].k], found.indices[i, : requests[row].k])
            for i, row in enumerate(asked)
        }
        return hidden, doubts, best

    def _seen(self, requests: Sequence[ScoreRequest], rows: int) -> Lists:
        """What may not be recommended to each of ``rows`` rows: the whole history, padding and the
        stand-in; nothing to keep from a request with candidates, and from rows beyond the
        requests."""
        nothing = np.empty(0, np.int64)
        seen = [
            nothing
            if each.candidates is not None
            else np.append(each.query[HISTORY].astype(np.int64), self._barred)
            for each in requests
        ]
        ids = np.concatenate(seen)
        offsets = np.full(rows + 1, len(ids), np.int64)
        offsets[: len(seen) + 1] = np.cumsum([0, *(len(each) for each in seen)])
        return ids, offsets

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's popularity prior, float32 [n_items + 1]."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the session goes with this object."""


def _products(
    requests: Sequence[ScoreRequest], rows: NDArray[np.float32], hidden: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The inner product of each candidate's row [n, d] with the state of who asks; one request's
    candidates after another's. Not a matrix product: BLAS sums a row in an order that depends on
    how many rows stand beside it."""
    counts = [
        0 if request.candidates is None else len(request.candidates[CANDIDATE_IDS])
        for request in requests
    ]
    products: NDArray[np.float32]
    most = max(counts)
    states = hidden[: len(counts)]
    if min(counts) == most:  # nearly always: then the states need not be written out for each row
        parted = rows.reshape(len(counts), most, rows.shape[1])
        products = np.einsum("bnd,bd->bn", parted, states).reshape(-1)
    else:
        products = np.einsum("nd,nd->n", rows, states.repeat(counts, axis=0))
    if not all_finite(products):
        raise ModelFailed("a score is not finite: state and item rows are too large")
    return products


def _check_graph(bundle: Bundle, session: Session, outputs: Sequence[str]) -> None:
    """Raise BundleRefused when the graph is not an encoder of item rows."""
    if set(session.inputs) != {"embedded", "mask"}:
        raise BundleRefused(
            f"bundle {bundle.id}: a sequence graph takes embedded and mask, this one takes "
            f"{', '.join(sorted(session.inputs))}"
        )
    missing = sorted(set(outputs) - set(session.outputs))
    if missing:
        raise BundleRefused(f"bundle {bundle.id}: the graph lacks the outputs {missing}")


def _check_output(name: str, array: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32:
        raise ModelFailed(
            f"the encoder's {name} must be float32 {list(shape)}, got {array.dtype} "
            f"{list(array.shape)}"
        )
    if not all_finite(array):
        raise ModelFailed(f"the encoder's {name} holds numbers that are not finite")

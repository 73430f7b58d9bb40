"""Scores kind ``sequence`` with a full SASRec and its neighbours: float32 rows, one shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_cloud.models.blend import ARCHITECTURES, CloudModel
from tierline_cloud.serve.info import describe
from tierline_kernels import dot_topk
from tierline_serving.bundle import Bundle
from tierline_serving.requests import HISTORY, SequenceRequests
from tierline_serving.sequence_spec import SequenceSpec

# Histories are encoded four at a time, the last chunk filled with empty ones: torch sums in an
# order that depends on how many rows a product has (measured: up to 8e-7 of a state), and a
# chunk of one fixed shape has one order. Four costs a lone history 1.4 times its own time.
TOGETHER = 4
PROBES = 16  # random histories that show at load whether a place in the chunk changes a state


class SequenceScorer:
    """One SASRec bundle; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleRefused when the weights do not fit the architecture or the manifest."""
        spec = bundle.manifest.sequence
        runtime = bundle.manifest.runtime
        if spec is None or runtime.architecture not in ARCHITECTURES:
            raise BundleRefused(
                f"bundle {bundle.id}: architecture {runtime.architecture!r} is unknown; "
                f"this version serves {' and '.join(ARCHITECTURES)}"
            )
        self._model = _load(bundle, spec)
        self._table = self._model.table
        self._requests = SequenceRequests(spec)
        self._bundle = bundle
        self._together = TOGETHER
        self._together = TOGETHER if self._place_is_neutral(spec) else 1
        self.info = describe(bundle, kernels="cpu")
        self._try_out()

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        """Candidates, or 1 for the whole catalogue: encoding dominates both."""
        return 1 if request.candidates is None else len(request.candidates[CANDIDATE_IDS])

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        hidden = self._encode(self._requests.pad(requests))
        if not np.isfinite(hidden).all():
            raise ModelFailed("the encoder answered numbers that are not finite")
        return [self._reply(request, hidden[row]) for row, request in enumerate(requests)]

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's popularity prior, float32 [n_items + 1]."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the weights go with this object."""

    def _reply(self, request: ScoreRequest, hidden: NDArray[np.float32]) -> ScoreReply:
        items: NDArray[np.int64] | None = None
        history = request.query[HISTORY].astype(np.int64)
        boost = self._model.boost(history)
        if request.candidates is None:
            seen = np.append(history, 0)
            offsets = np.array([0, len(seen)], np.int64)
            found = dot_topk(
                hidden[None], self._table, request.k or 1, exclude=(seen, offsets), boost=boost
            )
            scores, items = found.values[0], found.indices[0]
        else:
            wanted = request.candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
            # Not a matrix product: a candidate's score must not depend on how many there are.
            scores = np.einsum("nd,d->n", self._table[wanted], hidden)
            if boost is not None:
                scores += boost[wanted]
            if not np.isfinite(scores).all():
                raise ModelFailed("a score is not finite: state and item rows are too large")
        return ScoreReply(model=self.info.name, bundle=self.info.bundle, scores=scores, items=items)

    def _encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Left-padded ids [B, L] → states [B, d]."""
        count = len(ids)
        missing = -count % self._together
        filled = np.concatenate([ids, np.zeros((missing, ids.shape[1]), np.int64)])
        with torch.inference_mode():
            parts = [
                self._model.network.hidden(torch.from_numpy(filled[low : low + self._together]))
                for low in range(0, len(filled), self._together)
            ]
            states: NDArray[np.float32] = torch.cat(parts).numpy()[:count]
        return states

    def _place_is_neutral(self, spec: SequenceSpec) -> bool:
        """Whether a history's state is the same wherever in the chunk it stands."""
        dice = np.random.default_rng(0)
        ids = dice.integers(1, spec.items + 1, (PROBES, spec.max_history))
        ids[np.arange(spec.max_history) < dice.integers(0, spec.max_history, (PROBES, 1))] = 0
        here = self._encode(ids)
        moved = (self._encode(np.roll(ids, by, axis=0)) for by in range(1, TOGETHER))
        return all(
            np.roll(states, -by, axis=0).tobytes() == here.tobytes()
            for by, states in enumerate(moved, 1)
        )

    def _try_out(self) -> None:
        """Ask for a customer without a history: compiles the kernels before traffic does, and
        refuses a model that has no finite answer to it."""
        asked = ScoreRequest(model=self.info.name, query={HISTORY: np.zeros(0, np.int64)}, k=1)
        try:
            self.score([asked])
        except ModelFailed as error:
            raise BundleRefused(
                f"bundle {self.info.bundle}: asked with an empty history: {error}"
            ) from error


def _load(bundle: Bundle, spec: SequenceSpec) -> CloudModel:
    runtime = bundle.manifest.runtime
    try:
        tensors = load_safetensors(bundle.model_bytes())
        model = CloudModel.from_bundle(runtime.architecture, runtime.config or {}, tensors)
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleRefused(f"bundle {bundle.id}: the model does not load: {error}") from error
    shape = model.network.config
    if (shape.n_items, shape.dim) != (spec.items, spec.dim) or shape.max_history < spec.max_history:
        raise BundleRefused(
            f"bundle {bundle.id}: runtime.config is for {shape.n_items} items of {shape.dim} "
            f"numbers and {shape.max_history} positions, sequence says {spec.items}, {spec.dim} "
            f"and {spec.max_history}"
        )
    return model

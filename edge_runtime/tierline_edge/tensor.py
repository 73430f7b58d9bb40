"""Scores kind ``tensor``: any ONNX graph from named arrays to one score a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused, ModelFailed
from tierline.wire import ScoreReply, ScoreRequest
from tierline_edge.info import describe
from tierline_edge.session import Session
from tierline_serving.bundle import Bundle
from tierline_serving.finite import all_finite
from tierline_serving.requests import TensorRequests


class TensorScorer:
    """One bring-your-own graph; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        declared = {spec.name for spec in bundle.manifest.inputs}
        if declared != set(session.inputs):
            raise BundleRefused(
                f"bundle {bundle.id}: the manifest declares inputs {sorted(declared)}, "
                f"the graph has {sorted(session.inputs)}"
            )
        head = bundle.manifest.uncertainty
        self._outputs = ["scores"] if head is None else ["scores", head.output]
        missing = set(self._outputs) - set(session.outputs)
        if missing:
            raise BundleRefused(f"bundle {bundle.id}: the graph lacks outputs {sorted(missing)}")
        self._threshold = None if head is None else head.threshold
        self._requests = TensorRequests(bundle.manifest)
        self._session = session
        self._bundle = bundle
        self.info = describe(bundle, session, kernels="none")

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        return self._requests.rows(request)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        packed = self._requests.pack(requests)
        counts = [self._requests.rows(request) for request in requests]
        if counts == [1]:
            # ONNX Runtime may sum in another order where an axis is 1: a row alone gets company.
            packed = {name: np.repeat(array, 2, axis=0) for name, array in packed.items()}
            outputs = [output[:1] for output in self._session.run(self._outputs, packed)]
        else:
            outputs = self._session.run(self._outputs, packed)
        scores = outputs[0]
        if scores.shape != (sum(counts),):
            raise ModelFailed(f"expected scores of shape ({sum(counts)},), got {scores.shape}")
        if len(outputs) > 1 and outputs[1].shape != scores.shape:
            raise ModelFailed(f"expected an uncertainty per row, got shape {outputs[1].shape}")
        if not all(all_finite(output) for output in outputs):
            raise ModelFailed("the model answered numbers that are not finite")
        info, threshold = self.info, self._threshold
        replies, start = [], 0
        for count in counts:
            doubt = float(outputs[1][start : start + count].mean()) if len(outputs) > 1 else None
            replies.append(
                ScoreReply(
                    info.name, info.bundle, scores[start : start + count], None, doubt, threshold
                )
            )
            start += count
        return replies

    def prior(self) -> NDArray[np.float32] | None:
        """A tensor bundle knows no catalogue; its prior, if any, is by row of the prior file."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the session goes with this object."""

"""Write the edge model as ONNX and prove that the file says what the torch model says."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from tierline import TierlineError
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation.ranking import top_items
from tierline_cloud.models.edge import EdgeModel

OPSET = 20
PARITY_TOLERANCE = 1e-4  # float32 sums in another order, over two blocks
PARITY_SHARE = 0.999  # of users whose top 10 must be identical
BATCHES = (1, 2, 3, 8, 17, 64)

Floats = NDArray[np.float32]


class ParityError(TierlineError):
    """The exported file does not answer as the model does; the message has the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOutputs:
    """hidden [users, d] and uncertainty [users]."""

    hidden: Floats
    uncertainty: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The largest difference of a hidden value, and the share of users with the same top 10."""

    largest_difference: float
    same_top10: float


def export_edge(model: EdgeModel, path: Path) -> None:
    """Write the float32 graph: inputs ``embedded`` [requests, L, d] and ``mask`` [requests, L],
    outputs ``hidden`` [requests, d] and ``uncertainty`` [requests]."""
    shape = model.sasrec.config
    example = (
        torch.zeros(2, shape.max_history, shape.dim),
        torch.ones(2, shape.max_history),
    )
    requests = torch.export.Dim("requests")
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it lists optional packages that we do not use
    try:
        with warnings.catch_warnings():
            # Raised inside torch.export about its own internals; nothing a caller could mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*axis name: requests will not be used")
            torch.onnx.export(
                model.eval(),
                example,
                path,
                input_names=["embedded", "mask"],
                output_names=["hidden", "uncertainty"],
                dynamic_shapes={"embedded": {0: requests}, "mask": {0: requests}},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)


class EdgeSession:
    """An exported graph on the CPU, fed with rows of the item table as a node would feed it."""

    def __init__(self, model: Path | bytes, table: Floats, *, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._table = table

    def run(self, ids: Ids, *, batch: int = 256) -> EdgeOutputs:
        """ids int64 [users, max_history], left-padded with 0."""
        parts = [
            self._session.run(
                ["hidden", "uncertainty"], feeds(ids[start : start + batch], self._table)
            )
            for start in range(0, ids.shape[0], batch)
        ]
        return EdgeOutputs(
            hidden=np.concatenate([hidden for hidden, _ in parts]),
            uncertainty=np.concatenate([uncertainty for _, uncertainty in parts]),
        )


def feeds(ids: Ids, table: Floats) -> dict[str, Floats]:
    """The graph's inputs for left-padded ids."""
    return {"embedded": table[ids], "mask": (ids > 0).astype(np.float32)}


def torch_outputs(model: EdgeModel, ids: Ids, table: Floats, *, batch: int = 256) -> EdgeOutputs:
    """What the torch model itself answers, fed with the same table."""
    parts = []
    with torch.inference_mode():
        for start in range(0, ids.shape[0], batch):
            rows = feeds(ids[start : start + batch], table)
            parts.append(model(torch.from_numpy(rows["embedded"]), torch.from_numpy(rows["mask"])))
    return EdgeOutputs(
        hidden=torch.cat([hidden for hidden, _ in parts]).numpy(),
        uncertainty=torch.cat([uncertainty for _, uncertainty in parts]).numpy(),
    )


def compare(first: EdgeOutputs, second: EdgeOutputs, table: Floats) -> Parity:
    """How far two answers for the same users differ."""
    same: list[NDArray[np.bool_]] = []
    for start in range(0, first.hidden.shape[0], 512):
        span = slice(start, start + 512)
        lists = [top_items(_masked(part.hidden[span] @ table.T), 10) for part in (first, second)]
        same.append((lists[0] == lists[1]).all(axis=1))
    gap = max(
        float(np.abs(first.hidden - second.hidden).max()),
        float(np.abs(first.uncertainty - second.uncertainty).max()),
    )
    return Parity(largest_difference=gap, same_top10=float(np.concatenate(same).mean()))


def require_parity(parity: Parity) -> None:
    """Raises ParityError unless the float32 file and the model are one."""
    if parity.largest_difference > PARITY_TOLERANCE or parity.same_top10 < PARITY_SHARE:
        raise ParityError(
            f"the exported graph differs from the model: largest difference "
            f"{parity.largest_difference:.2e} (at most {PARITY_TOLERANCE:.0e}), same top 10 for "
            f"{parity.same_top10:.2%} of users (at least {PARITY_SHARE:.1%})"
        )


def batch_variance(session: EdgeSession, ids: Ids, *, batches: Sequence[int] = BATCHES) -> float:
    """The largest change of any output when the same users are asked alone or in batches."""
    alone = session.run(ids, batch=1)
    worst = 0.0
    for batch in batches:
        together = session.run(ids, batch=batch)
        for one, other in (
            (alone.hidden, together.hidden),
            (alone.uncertainty, together.uncertainty),
        ):
            worst = max(worst, float(np.abs(one - other).max()))
    return worst


def _masked(scores: Floats) -> Floats:
    scores[:, 0] = -np.inf
    return scores

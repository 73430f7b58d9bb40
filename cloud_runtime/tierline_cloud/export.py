"""Write the edge model as ONNX and prove that the file says what the torch model says."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # arrays of any type

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from tierline import TierlineError
from tierline_cloud.compression.notes import without_notes
from tierline_cloud.data.sequences import Ids
from tierline_cloud.evaluation.ranking import top_items
from tierline_serving.neighbours import Boosts, NeighbourTable

OPSET = 20
PARITY_TOLERANCE = 1e-4  # float32 sums in another order, over two blocks
PARITY_SHARE = 0.999  # of users whose top 10 must be identical
BATCHES = (2, 3, 8, 17, 64)
BATCH_TOLERANCE = 1e-5  # of a value, between alone and in company

Floats = NDArray[np.float32]


class ParityError(TierlineError):
    """The exported file does not answer as the model does; the message has the figures."""


class BatchVarianceError(TierlineError):
    """A score depends on who else is in the batch; the message has the figures."""


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


def export_edge(model: nn.Module, path: Path, *, max_history: int, dim: int) -> None:
    """Write the float32 graph: inputs ``embedded`` [requests, L, d] and ``mask`` [requests, L],
    outputs ``hidden`` [requests, d] and ``uncertainty`` [requests]."""
    example = {
        "embedded": torch.zeros(2, max_history, dim),
        "mask": torch.ones(2, max_history),
    }
    export_graph(model, path, example, outputs=["hidden", "uncertainty"], rows="requests")


def export_graph(
    model: nn.Module, path: Path, example: dict[str, torch.Tensor], *, outputs: list[str], rows: str
) -> None:
    """Write ``model`` as ONNX with the example's inputs by name, whose first axis is ``rows``. The
    exporter's notes (source lines, shapes it inferred) are left out: they outweigh the weights,
    and name this machine."""
    axis = torch.export.Dim(rows)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it lists optional packages that we do not use
    try:
        with warnings.catch_warnings():
            # Raised inside torch.export about its own internals; nothing a caller could mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message=f".*axis name: {rows} will not be used")
            torch.onnx.export(
                model.eval(),
                tuple(example.values()),
                path,
                input_names=list(example),
                output_names=outputs,
                dynamic_shapes={name: {0: axis} for name in example},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    onnx.save(without_notes(onnx.load(path)), path)


def open_session(model: Path | bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """A graph on this many of the CPU's threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


Ask = Callable[[Ids, int], EdgeOutputs]  # users' ids and how many to ask together


class EdgeSession:
    """An exported graph on the CPU, fed with rows of the item table as a node would feed it."""

    def __init__(self, model: Path | bytes, table: Floats, *, threads: int = 2) -> None:
        self._session = open_session(model, threads=threads)
        self._table = table

    def run(self, ids: Ids, batch: int = 256) -> EdgeOutputs:
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


def torch_outputs(model: nn.Module, ids: Ids, table: Floats, *, batch: int = 256) -> EdgeOutputs:
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


def compare(
    first: EdgeOutputs, second: EdgeOutputs, table: Floats, boosts: Boosts | None = None
) -> Parity:
    """How far two answers for the same users differ; ``boosts`` is what neighbours add to both."""
    same: list[NDArray[np.bool_]] = []
    for start in range(0, first.hidden.shape[0], 512):
        span = slice(start, start + 512)
        blocks = [part.hidden[span] @ table.T for part in (first, second)]
        if boosts is not None:
            gained = boosts.take(range(start, start + len(blocks[0])))
            for block in blocks:
                gained.add_to(block)
        lists = [top_items(_masked(block), 10) for block in blocks]
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


def batch_parity(
    ask: Ask,
    ids: Ids,
    table: Floats,
    neighbours: NeighbourTable | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    seed: int = 0,
) -> Parity:
    """The worst over ``batches`` of every user's answer among random neighbours against the answer
    alone. Alone is as a node asks: where one row by itself is summed in another order than in
    company, a node never asks for one row but for two (tierline_edge.sequence)."""
    alone, twice = ask(ids, 1), ask(np.repeat(ids, 2, axis=0), 2)
    if not np.array_equal(alone.hidden, twice.hidden[::2]):
        alone = EdgeOutputs(hidden=twice.hidden[::2], uncertainty=twice.uncertainty[::2])
    boosts = None if neighbours is None else neighbours.boosts(list(ids))
    rng = np.random.default_rng(seed)
    found = []
    for batch in batches:
        order = rng.permutation(len(ids))
        back = np.argsort(order)
        said = ask(ids[order], batch)
        together = EdgeOutputs(hidden=said.hidden[back], uncertainty=said.uncertainty[back])
        found.append(compare(alone, together, table, boosts))
    return Parity(
        largest_difference=max(each.largest_difference for each in found),
        same_top10=min(each.same_top10 for each in found),
    )


def require_batch_invariance(parity: Parity) -> None:
    """Raises BatchVarianceError unless nobody's answer depends on who else asks."""
    if parity.largest_difference > BATCH_TOLERANCE or parity.same_top10 < 1.0:
        raise BatchVarianceError(
            f"answers depend on who else is in the batch: largest difference "
            f"{parity.largest_difference:.2e} (at most {BATCH_TOLERANCE:.0e}), same top 10 for "
            f"{parity.same_top10:.2%} of users (all of them wanted); quantise with fixed ranges or "
            f"weights only, never with ranges taken per call"
        )


def row_scores(
    session: onnxruntime.InferenceSession, rows: Mapping[str, NDArray[Any]], batch: int
) -> Floats:
    """``scores`` of a graph of kind tensor for its inputs, ``batch`` rows at a time; a row left
    over is asked as a node asks it, twice (tierline_edge.tensor)."""
    size, parts = len(next(iter(rows.values()))), []
    for start in range(0, size, batch):
        feed = {name: values[start : start + batch] for name, values in rows.items()}
        count = min(batch, size - start)
        if count == 1:
            feed = {name: np.repeat(values, 2, axis=0) for name, values in feed.items()}
        parts.append(session.run(["scores"], feed)[0][:count])
    result: Floats = np.concatenate(parts)
    return result


def row_variance(session: onnxruntime.InferenceSession, rows: Mapping[str, NDArray[Any]]) -> float:
    """The largest change of a row's score between a batch of two and larger ones."""
    pairs = row_scores(session, rows, 2)
    return max(float(np.abs(row_scores(session, rows, n) - pairs).max()) for n in BATCHES)


def _masked(scores: Floats) -> Floats:
    scores[:, 0] = -np.inf
    return scores

"""What a bundle must prove before it is published: it says what the model said, whoever else asks.

Both are asked of the bundle's own bytes, so a graph swapped or quantised since the stages ran is
caught too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tierline_cloud.data.sequences import Ids
from tierline_cloud.export import (
    BATCH_TOLERANCE,
    Ask,
    BatchVarianceError,
    EdgeOutputs,
    EdgeSession,
    Floats,
    Parity,
    ParityError,
    batch_parity,
    open_session,
    require_batch_invariance,
    require_parity,
    row_variance,
)
from tierline_cloud.loading import item_table, load_cloud, sequence_of
from tierline_cloud.models.blend import CloudModel
from tierline_serving.bundle import Bundle

PROBES = 64  # random histories of random length


def require_publishable(bundle: Bundle) -> None:
    """Raises ParityError or BatchVarianceError naming the bundle and the figure that is too bad."""
    manifest = bundle.manifest
    if manifest.kind == "tensor":
        if manifest.runtime.engine == "onnx":
            _rows_alone_and_together(bundle)
        return  # a torch module of kind tensor is asked one request at a time
    if manifest.tier == "edge":
        _require_recorded_parity(bundle)
        table = item_table(bundle)
        ask: Ask = EdgeSession(bundle.model_bytes(), table, threads=1).run
    else:
        model = load_cloud(bundle)
        table, ask = model.table, _asking(model)
    found = batch_parity(ask, _histories(bundle), table, bundle.neighbours())
    try:
        require_batch_invariance(found)
    except BatchVarianceError as error:
        raise BatchVarianceError(f"bundle {bundle.id} is not published: {error}") from error


def _require_recorded_parity(bundle: Bundle) -> None:
    """The float32 graph stood beside its torch model when it was exported; the figures are in the
    manifest, which the signature covers."""
    found = bundle.manifest.metrics.get("parity")
    if not isinstance(found, Mapping) or set(found) != {"largest_difference", "same_top10"}:
        raise ParityError(
            f"bundle {bundle.id} is not published: its manifest holds no metrics.parity; export it "
            "with `tierline train`"
        )
    try:
        require_parity(Parity(**{name: float(value) for name, value in found.items()}))
    except ParityError as error:
        raise ParityError(f"bundle {bundle.id} is not published: {error}") from error


def _histories(bundle: Bundle) -> Ids:
    spec, dice = sequence_of(bundle), np.random.default_rng(0)
    ids = dice.integers(1, spec.table_items + 1, (PROBES, spec.max_history))
    ids[np.arange(spec.max_history) < dice.integers(0, spec.max_history, (PROBES, 1))] = 0
    return ids


def _asking(model: CloudModel) -> Ask:
    def ask(ids: Ids, batch: int) -> EdgeOutputs:
        with torch.inference_mode():
            parts = [
                model.network.hidden(part) for part in torch.split(torch.from_numpy(ids), batch)
            ]
            hidden: Floats = torch.cat(parts).numpy()
        return EdgeOutputs(hidden=hidden, uncertainty=np.zeros(len(ids), np.float32))

    return ask


def _rows_alone_and_together(bundle: Bundle) -> None:
    """The golden requests' rows, in pairs (a node asks no row alone) and in larger batches."""
    session = open_session(bundle.model_bytes(), threads=1)
    requests = [request for request, _ in bundle.golden()] if bundle.manifest.golden else []
    if not requests or requests[0].candidates is None or requests[0].query:
        raise BatchVarianceError(
            f"bundle {bundle.id} is not published: without golden requests that have candidates "
            "only, nothing shows that its scores know no neighbours"
        )
    found = {name: np.asarray(values) for name, values in requests[0].candidates.items()}
    size = min(len(values) for values in found.values())
    order = np.random.default_rng(0).integers(0, size, PROBES)
    worst = row_variance(session, {name: values[order] for name, values in found.items()})
    if worst > BATCH_TOLERANCE:
        raise BatchVarianceError(
            f"bundle {bundle.id} is not published: scores depend on who else is in the batch, by "
            f"{worst:.1e} (at most {BATCH_TOLERANCE})"
        )

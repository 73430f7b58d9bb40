"""The protocol's descriptions of a server and its models, as JSON values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tierline import __version__
from tierline_serving.model_states import ModelState
from tierline_serving.oip.requests import InputSpec
from tierline_serving.oip.signatures import OutputSpec, Signature
from tierline_serving.scorer import ModelInfo
from tierline_serving.statistics import BundleStatistics, Sum

# Only what is true: statistics, configuration and the repository calls are there; priorities,
# sequences, shared memory, tracing and classification are not.
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")

_NO_SUM = Sum()


def server_document() -> dict[str, object]:
    """``GET /v2``."""
    return {"name": "tierline", "version": __version__, "extensions": list(EXTENSIONS)}


def model_document(
    info: ModelInfo, signature: Signature, versions: Sequence[str]
) -> dict[str, object]:
    """``GET /v2/models/{m}``, with the bundles that may be asked for by name; what a request may
    leave out is told by the configuration."""
    return {
        "name": info.name,
        "versions": list(versions),
        "platform": f"tierline_{info.kind}",
        "inputs": [_tensor(spec) for spec in signature.inputs.values()],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def model_config(info: ModelInfo, signature: Signature) -> dict[str, object]:
    """``GET /v2/models/{m}/config``, in the field names of Triton's model configuration."""
    return {
        "name": info.name,
        "platform": f"tierline_{info.kind}",
        "backend": info.engine,
        "max_batch_size": 0,  # requests have no batch axis: the endpoint batches what comes
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_config_tensor(spec) for spec in signature.inputs.values()],
        "output": [_config_tensor(spec) for spec in signature.outputs],
        "parameters": {
            "tier": {"string_value": info.tier},
            "kernels": {"string_value": info.kernels},
        },
    }


def index_document(states: Sequence[ModelState], *, only_ready: bool) -> list[dict[str, str]]:
    """``POST /v2/repository/index``."""
    rows = []
    for state in states:
        if only_ready and state.state.value != "READY":
            continue
        version = {} if state.bundle is None else {"version": state.bundle}
        named = {"name": state.name, **version}
        rows.append({**named, "state": state.state.value, "reason": state.reason})
    return rows


def statistics_document(info: ModelInfo, counted: BundleStatistics) -> dict[str, object]:
    """One model's entry of ``GET /v2/models/stats``.

    Requests that never reached the model (malformed, refused for load) are not in it. Reading
    inputs and writing outputs is not timed apart: those sums are zero.
    """
    parts = {name: _NO_SUM.as_json() for name in ("compute_input", "compute_output")}
    return {
        "name": info.name,
        "version": info.bundle,
        "last_inference": round(counted.last_at * 1000.0),
        "inference_count": counted.success.count,
        "execution_count": counted.batches,
        "inference_stats": {
            "success": counted.success.as_json(),
            "fail": counted.fail.as_json(),
            "queue": counted.queue.as_json(),
            "compute_infer": counted.compute.as_json(),
            **parts,
            "cache_hit": _NO_SUM.as_json(),
            "cache_miss": _NO_SUM.as_json(),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": each.as_json(), **parts}
            for size, each in sorted(counted.by_size.items())
        ],
        "memory_usage": [],
    }


def _tensor(spec: InputSpec | OutputSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: InputSpec | OutputSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "data_type": f"TYPE_{spec.datatype}",
        "dims": list(spec.shape),
        "optional": spec.optional,
    }

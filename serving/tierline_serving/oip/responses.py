"""Writes an inference response: JSON alone, or JSON with raw tensors behind it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest
from tierline.wire import ScoreReply
from tierline_serving.front.exchange import JSON_TYPE, Response
from tierline_serving.oip.datatypes import NUMPY
from tierline_serving.oip.requests import HEADER_LENGTH, InferRequest, RequestedOutput

_BINARY_TYPE: Final = b"application/octet-stream"

Array = NDArray[np.generic]


def infer_response(
    request: InferRequest, reply: ScoreReply, outputs: Mapping[str, tuple[str, Array]]
) -> Response:
    """The answer with the outputs asked for, in the order asked for.

    Raises BadRequest when an output was asked for that this request does not get.
    """
    wanted = request.outputs or tuple(RequestedOutput(name, None) for name in outputs)
    described: list[dict[str, object]] = []
    raw: list[bytes] = []
    for output in wanted:
        if output.name not in outputs:
            raise BadRequest(f"this request gets no output {output.name!r} from this model")
        datatype, array = outputs[output.name]
        entry: dict[str, object] = {
            "name": output.name,
            "shape": list(array.shape),
            "datatype": datatype,
        }
        if request.binary_default if output.binary is None else output.binary:
            raw.append(np.ascontiguousarray(array, NUMPY[datatype]).tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = array.tolist()
        described.append(entry)
    document: dict[str, object] = {
        "model_name": reply.model,
        "model_version": reply.bundle,
        "parameters": _said_beside(reply),
        "outputs": described,
    }
    if request.id is not None:
        document["id"] = request.id
    head = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if not raw:
        return Response(200, head, ((b"content-type", JSON_TYPE),))
    length = (HEADER_LENGTH.encode(), b"%d" % len(head))
    return Response(200, b"".join([head, *raw]), ((b"content-type", _BINARY_TYPE), length))


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, json.dumps(value).encode(), ((b"content-type", JSON_TYPE),))


def _said_beside(reply: ScoreReply) -> dict[str, float]:
    """What else a tier says with its scores: times in milliseconds, the threshold to escalate."""
    said = {f"{name}_ms": seconds * 1000.0 for name, seconds in reply.timings.items()}
    if reply.threshold is not None:
        said["threshold"] = reply.threshold
    return said

"""Reads an inference request: the JSON part, then each tensor from JSON or the bytes behind. Pure.

Raises BadRequest with a sentence for all that is malformed, unknown or beyond the limits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest
from tierline.wire import Limits
from tierline_serving.front.exchange import Refused
from tierline_serving.oip.datatypes import DATATYPES, NUMPY
from tierline_serving.oip.tensors import element_count, from_bytes, from_json

HEADER_LENGTH: Final = "inference-header-content-length"
MAX_JSON_BYTES: Final = 2 * 1024 * 1024  # parsing JSON stops the loop: 20 ms at the most
MAX_ID: Final = 1024  # characters of a request id, which is echoed

# What clients ask for with parameters that this endpoint cannot do: refused, never ignored.
_REFUSED_PARAMETERS: Final = {
    "sequence_id": "models here keep no state between requests",
    "sequence_start": "models here keep no state between requests",
    "sequence_end": "models here keep no state between requests",
    "shared_memory_region": "shared memory is not served here; send the tensor's data",
    "shared_memory_byte_size": "shared memory is not served here; send the tensor's data",
    "shared_memory_offset": "shared memory is not served here; send the tensor's data",
    "classification": "classification is not served here; ask for the scores",
}

Array = NDArray[np.generic]
Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """A tensor a model takes; −1 in ``shape`` is an axis of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output by name; ``binary`` None leaves its form to the request's default."""

    name: str
    binary: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """One inference request. ``outputs`` None: all there are. ``timeout`` is in seconds."""

    inputs: Mapping[str, Array]
    outputs: tuple[RequestedOutput, ...] | None = None
    binary_default: bool = False
    id: str | None = None
    timeout: float | None = None


def parse_infer(
    body: bytes, header_length: str | None, specs: Mapping[str, InputSpec], limits: Limits
) -> InferRequest:
    """Read a plain (not compressed) body for a model that takes ``specs``."""
    size = _header_length(header_length, len(body))
    if size == 0 and header_length is not None:
        return _raw_request(body, specs)
    document = _document(body[:size])
    tail = memoryview(body)[size:]
    inputs = _inputs(document.get("inputs"), tail, specs, limits)
    parameters = _parameters("the request", document)
    identifier = document.get("id")
    if identifier is not None and not (isinstance(identifier, str) and len(identifier) <= MAX_ID):
        raise BadRequest(f"id must be a text of at most {MAX_ID} characters")
    return InferRequest(
        inputs=inputs,
        outputs=_outputs(document.get("outputs"), limits),
        binary_default=_flag(parameters, "binary_data_output", False) or False,
        id=identifier or None,
        timeout=_timeout(parameters),
    )


def parse_document(body: bytes) -> dict[str, object]:
    """A JSON object; an empty body is an empty one. Raises BadRequest; Refused when too large."""
    return _document(body) if body.strip() else {}


def _header_length(text: str | None, total: int) -> int:
    if text is None:
        return total
    if not (text.isascii() and text.isdecimal() and len(text) <= 12) or int(text) > total:
        raise BadRequest(
            f"Inference-Header-Content-Length must be from 0 to the {total} bytes of the body"
        )
    return int(text)


def _document(raw: bytes) -> dict[str, object]:
    if len(raw) > MAX_JSON_BYTES:
        raise Refused(
            "too_large",
            f"the JSON part is larger than {MAX_JSON_BYTES} bytes; send tensors as binary data",
        )
    try:
        document = json.loads(raw, parse_constant=_not_json)
    except RecursionError as error:
        raise BadRequest("the JSON part is nested too deeply") from error
    except ValueError as error:  # also not UTF-8, and numbers of thousands of digits
        raise BadRequest("the JSON part of the request is not valid JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise BadRequest("the request must be a JSON object")
    return document


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _inputs(
    listed: object, tail: memoryview, specs: Mapping[str, InputSpec], limits: Limits
) -> dict[str, Array]:
    if not isinstance(listed, list) or not listed:
        raise BadRequest("inputs must be a list of at least one tensor")
    if len(listed) > limits.max_tensors:
        raise BadRequest(f"a request may have at most {limits.max_tensors} inputs")
    inputs: dict[str, Array] = {}
    for entry in listed:
        spec, shape = _checked(entry, specs, limits)
        if spec.name in inputs:
            raise BadRequest(f"input {spec.name!r} is given twice")
        size = _binary_size(spec.name, entry)
        if size is None:
            inputs[spec.name] = from_json(spec.name, spec.datatype, shape, entry["data"])
            continue
        if size > len(tail):
            raise BadRequest(
                f"input {spec.name!r}: {size} bytes are announced, {len(tail)} are left in the body"
            )
        inputs[spec.name] = from_bytes(spec.name, spec.datatype, shape, tail[:size])
        tail = tail[size:]
    if len(tail):
        raise BadRequest(f"{len(tail)} bytes follow the last binary tensor")
    missing = [name for name, spec in specs.items() if not spec.optional and name not in inputs]
    if missing:
        raise BadRequest(f"the model also takes {', '.join(missing)}")
    return inputs


def _checked(
    entry: object, specs: Mapping[str, InputSpec], limits: Limits
) -> tuple[InputSpec, tuple[int, ...]]:
    """The model's spec of a listed input, and the shape it comes in."""
    if not isinstance(entry, dict):
        raise BadRequest("each input must be a JSON object")
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    spec = specs.get(name) if isinstance(name, str) else None
    if spec is None:
        raise BadRequest(f"the model has no input {_shown(name)}; it takes {', '.join(specs)}")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(f"input {spec.name!r}: there is no datatype {_shown(datatype)}")
    if datatype != spec.datatype:
        raise BadRequest(f"input {spec.name!r} takes {spec.datatype}, got {datatype}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise BadRequest(f"input {spec.name!r}: the shape must be a list of whole numbers")
    if len(shape) > limits.max_rank or element_count(shape) > limits.max_frame_bytes:
        raise BadRequest(f"input {spec.name!r}: the shape is beyond the limits of this endpoint")
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise BadRequest(f"input {spec.name!r} takes the shape {list(spec.shape)}, got {shape}")
    return spec, tuple(shape)


def _binary_size(name: str, entry: Mapping[str, object]) -> int | None:
    """How many bytes behind the JSON part are this input's; None when its data is JSON."""
    parameters = _parameters(f"input {name!r}", entry)
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise BadRequest(f"input {name!r} must have either data or the parameter binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise BadRequest(f"input {name!r}: binary_data_size must be a number of bytes")
    return size


def _outputs(listed: object, limits: Limits) -> tuple[RequestedOutput, ...] | None:
    if listed is None or listed == []:
        return None
    if not isinstance(listed, list) or len(listed) > limits.max_tensors:
        raise BadRequest(f"outputs must be a list of at most {limits.max_tensors}")
    wanted: dict[str, RequestedOutput] = {}
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise BadRequest("each output must be a JSON object with a name")
        if name in wanted:
            raise BadRequest(f"output {_shown(name)} is asked for twice")
        parameters = _parameters(f"output {_shown(name)}", entry)
        wanted[name] = RequestedOutput(name, _flag(parameters, "binary_data", None))
    return tuple(wanted.values())


def _raw_request(body: bytes, specs: Mapping[str, InputSpec]) -> InferRequest:
    """A body that is one tensor and nothing else, for a model that takes only one."""
    spec = next(iter(specs.values()))
    if len(specs) != 1 or spec.shape.count(-1) > 1:
        raise BadRequest("only a model with one input of one open axis takes a raw tensor")
    row = element_count([extent for extent in spec.shape if extent != -1])
    size = row * NUMPY[spec.datatype].itemsize
    rows = len(body) // size if size else 0
    shape = tuple(rows if extent == -1 else extent for extent in spec.shape)
    tensor = from_bytes(spec.name, spec.datatype, shape, memoryview(body))
    return InferRequest(inputs={spec.name: tensor}, binary_default=True)


def _parameters(owner: str, entry: Mapping[str, object]) -> Parameters:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"{owner}: parameters must be a JSON object")
    for name in parameters:
        if name.startswith("triton_"):
            raise BadRequest(f"{owner}: the parameter {_shown(name)} is reserved")
    for name, why in _REFUSED_PARAMETERS.items():
        if parameters.get(name):
            raise BadRequest(f"{owner}: {name} cannot be asked for: {why}")
    return parameters


def _flag(parameters: Parameters, name: str, default: bool | None) -> bool | None:
    value = parameters.get(name, default)
    if value is not default and not isinstance(value, bool):
        raise BadRequest(f"the parameter {name} must be true or false")
    return value if isinstance(value, bool) else default


def _timeout(parameters: Parameters) -> float | None:
    """The parameter ``timeout``, whole microseconds, as seconds."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise BadRequest("the parameter timeout must be a positive number of microseconds")
    seconds = value / 1e6 if value < 1e18 else math.inf
    return seconds if math.isfinite(seconds) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"

"""The HTTP surface of an endpoint as an OpenAPI 3.1 document; `python -m …` prints it. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tierline import __version__
from tierline.wire.headers import CONTENT_TYPE

Schema = Mapping[str, object]

_FRAME: Final[Schema] = {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_TEXT: Final[Schema] = {"text/plain": {"schema": {"type": "string"}}}
_ANY_JSON: Final[Schema] = {"application/json": {"schema": {}}}
# What any request may meet before its own work begins; 501: a part that is not served.
_ALWAYS: Final = (400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 501, 503)
_SCORING: Final = (*_ALWAYS, 422, 500, 504)

_STRINGS: Final[Schema] = {"type": "array", "items": {"type": "string"}}
_TENSOR: Final[Schema] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "examples": ["INT64", "FP32"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_INFER: Final[Schema] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "parameters": {"type": "object"},
    },
}
_RERANK: Final[Schema] = {
    "type": "object",
    "required": ["query"],
    "properties": {
        "query": {"type": ["string", "array"]},
        "documents": {"type": "array", "minItems": 1, "items": {}},
        "texts": {"type": "array", "minItems": 1, "items": {}},
        "model": {"type": "string"},
        "top_n": {"type": "integer", "minimum": 1},
        "return_documents": {"type": "boolean"},
        "raw_scores": {"type": "boolean"},
    },
}
_INDEX: Final[Schema] = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
_NOTHING: Final[Schema] = {"type": "object", "properties": {"parameters": {"type": "object"}}}
_LABEL: Final[Schema] = {
    "type": "object",
    "required": ["version"],
    "properties": {"version": {"type": "string"}},
}


@dataclass(frozen=True, slots=True)
class Route:
    """One path and verb: what it does, what it takes, what a 200 carries, which errors it has."""

    verb: str
    path: str
    does: str
    answer: Mapping[str, object]
    takes: Mapping[str, object] | None = None
    errors: tuple[int, ...] = _ALWAYS


def _json(schema: Schema) -> dict[str, object]:
    return {"application/json": {"schema": schema}}


def _model_routes(at: str) -> Iterator[Route]:
    yield Route("get", at, "describe a model: inputs, outputs, versions", _ANY_JSON)
    yield Route("get", f"{at}/ready", "whether it answers", _ANY_JSON)
    yield Route("get", f"{at}/config", "its configuration", _ANY_JSON)
    yield Route("get", f"{at}/stats", "what its batches amounted to", _ANY_JSON)
    infer = {**_json(_INFER), "application/octet-stream": {"schema": {"type": "string"}}}
    yield Route("post", f"{at}/infer", "score", _ANY_JSON, infer, _SCORING)


def _repository_routes() -> Iterator[Route]:
    at = "/v2/repository/models/{model}"
    takes = _json(_NOTHING)
    changes = (*_ALWAYS, 500)
    yield Route("post", "/v2/repository/index", "every model and bundle", _ANY_JSON, _json(_INDEX))
    yield Route("post", f"{at}/load", "load what the source wants", _ANY_JSON, takes, changes)
    yield Route("post", f"{at}/unload", "serve the model no more", _ANY_JSON, takes, changes)
    yield Route("post", f"{at}/rollback", "the bundle before again", _ANY_JSON, takes, changes)
    yield Route("post", f"{at}/labels/{{label}}", "move a label", _ANY_JSON, _json(_LABEL), changes)


def routes() -> list[Route]:
    """Every route of an endpoint."""
    rerank = ("/rerank", "/v1/rerank", "/v2/rerank")
    return [
        Route("get", "/livez", "whether the process lives", _TEXT),
        Route("get", "/readyz", "whether it wants work", _TEXT),
        Route("get", "/metrics", "Prometheus metrics", _TEXT),
        Route("get", "/metadata", "what this endpoint is", _ANY_JSON),
        Route("get", "/openapi.json", "this document", _ANY_JSON),
        Route("post", "/v1/score", "score, natively", _FRAME, _FRAME, _SCORING),
        Route("get", "/v1/models", "the models", _ANY_JSON),
        Route("get", "/v1/models/{model}", "one model", _ANY_JSON),
        Route("get", "/v1/models/{model}/prior", "its popularity prior", _FRAME),
        *(
            Route("post", path, "rank items", _ANY_JSON, _json(_RERANK), _SCORING)
            for path in rerank
        ),
        Route("get", "/v2", "what this endpoint is", _ANY_JSON),
        Route("get", "/v2/health/live", "whether the process lives", _ANY_JSON),
        Route("get", "/v2/health/ready", "whether it wants work", _ANY_JSON),
        Route("get", "/v2/models", "the models' names", _ANY_JSON),
        Route("get", "/v2/models/stats", "statistics of all models", _ANY_JSON),
        *_model_routes("/v2/models/{model}"),
        *_model_routes("/v2/models/{model}/versions/{version}"),
        *_model_routes("/v2/models/{model}/labels/{label}"),
        *_repository_routes(),
    ]


def document() -> dict[str, object]:
    """The whole document."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes():
        paths.setdefault(route.path, {})[route.verb] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tierline endpoint", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(route: Route) -> dict[str, object]:
    named = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    answers: dict[str, object] = {"200": {"description": "done", "content": route.answer}}
    answers |= {str(status): {"description": "refused"} for status in sorted(route.errors)}
    operation: dict[str, object] = {
        "operationId": f"{route.verb} {route.path}",
        "summary": route.does,
        "responses": answers,
    }
    if named:
        text = {"type": "string", "minLength": 1}
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": text} for name in named
        ]
    if route.takes is not None:
        operation["requestBody"] = {"content": route.takes}
    return operation


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1) + "\n")

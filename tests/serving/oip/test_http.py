"""The protocol without a client in between: verbs, paths, raw tensors, compression, bombs."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from processes import Served

INFER = "/v2/models/ranker/infer"


def inputs(*ids: int) -> dict[str, object]:
    return {
        "inputs": [
            {"name": "history", "datatype": "INT64", "shape": [2], "data": [3, 4]},
            {"name": "id", "datatype": "INT64", "shape": [len(ids)], "data": list(ids)},
        ]
    }


def test_a_request_in_json_is_answered_in_json(node: Served) -> None:
    answered = node.post(INFER, {**inputs(5, 6), "id": "näh"}, x_request_id="abc")
    document = answered.json
    assert isinstance(document, dict)
    assert (answered.status, answered.headers["content-type"]) == (200, "application/json")
    assert (document["model_name"], document["id"]) == ("ranker", "näh")
    assert answered.headers["x-request-id"] == "abc"
    assert "inference-header-content-length" not in answered.headers


def test_a_raw_tensor_is_answered_in_binary(node: Served) -> None:
    rows = np.array([[1, 2], [3, 4]], "<f4")
    headers = {"Inference-Header-Content-Length": "0"}
    answered = node.ask("POST", "/v2/models/alone/infer", rows.tobytes(), headers)
    length = int(answered.headers["inference-header-content-length"])
    assert np.frombuffer(answered.body[length:], "<f4").tolist() == [3.0, 7.0]


def test_the_deadline_of_the_headers_counts(node: Served) -> None:
    answered = node.post(INFER, inputs(5), x_tierline_deadline_ms="0.001")
    assert (answered.status, list(answered.json)) == (504, ["error"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", INFER, 405, "POST"),
        ("POST", "/v2", 405, "GET"),
        ("PUT", "/v2/repository/index", 405, "POST"),
        ("GET", "/v2/nothing", 404, None),
        ("GET", "/v2/models/nobody", 404, None),
        ("GET", "/v2/models/ranker/versions/9", 404, None),
        ("GET", "/v2/models/ranker/versions/9/stats", 404, None),
    ],
)
def test_a_wrong_verb_or_path_is_an_error_in_json(
    node: Served, method: str, path: str, status: int, allowed: str | None
) -> None:
    answered = node.ask(method, path)
    assert (answered.status, answered.headers.get("allow")) == (status, allowed)
    assert list(answered.json) == ["error"]  # type: ignore[call-overload]


def test_models_are_listed(node: Served) -> None:
    listed = node.ask("GET", "/v2/models").json
    assert {"ranker", "taste"} <= set(listed["models"])  # type: ignore[index]


def test_the_index_can_be_of_ready_models_only(node: Served) -> None:
    assert len(node.post("/v2/repository/index", {"ready": True}).json) == 15  # type: ignore[arg-type]
    assert node.post("/v2/repository/index", {"ready": 1}).status == 400


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_bomb_is_refused_and_the_server_lives(node: Served, name: str) -> None:
    pack = gzip.compress if name == "gzip" else zlib.compress
    bomb = pack(bytes(40_000_000))
    answered = node.ask("POST", INFER, bomb, {"Content-Encoding": name})
    assert answered.status == 413
    assert "inflates beyond" in json.loads(answered.body)["error"]
    assert node.post(INFER, inputs(5)).status == 200


def test_an_unknown_encoding_is_415(node: Served) -> None:
    assert node.ask("POST", INFER, b"x", {"Content-Encoding": "br"}).status == 415


def test_a_body_too_large_is_413_before_it_is_read(node: Served) -> None:
    headers = {"Content-Length": str(2**40)}
    answered = node.ask("POST", INFER, b"", headers)
    assert answered.status == 413


def test_more_candidates_than_the_queue_holds_are_refused(node: Served) -> None:
    ids = np.ones(70_000, "<i8")
    head = json.dumps(
        {
            "inputs": [
                {"name": "history", "datatype": "INT64", "shape": [1], "data": [1]},
                {
                    "name": "id",
                    "datatype": "INT64",
                    "shape": [len(ids)],
                    "parameters": {"binary_data_size": ids.nbytes},
                },
            ]
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answered = node.ask("POST", INFER, head + ids.tobytes(), headers)
    assert answered.status == 400
    assert "ask in smaller parts" in json.loads(answered.body)["error"]

"""The stock tritonclient[http], synchronous and asyncio, against a real server process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Client = Callable[..., dict[str, Any]]

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
ROWS = 200  # enough that answers are worth compressing
VERSION = "7@0123456789ab"


def rows_of(datatype: str) -> list[list[Any]]:
    """Rows of two numbers that every datatype holds exactly."""
    if datatype == "BOOL":
        return [[n % 2 == 0, n % 3 == 0] for n in range(ROWS)]
    return [[n % 100, 1] for n in range(ROWS)]


def inputs_for(datatype: str, *, x: bool, bias: bool) -> list[dict[str, Any]]:
    """The two inputs of a sum model, each binary or not."""
    values = rows_of(datatype)
    ones = [True, False] if datatype == "BOOL" else [1, 0]
    return [
        {"name": "x", "shape": [ROWS, 2], "datatype": datatype, "values": values, "binary": x},
        {"name": "bias", "shape": [2], "datatype": datatype, "values": ones, "binary": bias},
    ]


def expected(datatype: str) -> list[float]:
    return [float(int(a) + int(b) + 1) for a, b in rows_of(datatype)]


def history(values: list[int], *, binary: bool = True) -> dict[str, Any]:
    return tensor("history", values, binary=binary)


def tensor(name: str, values: list[int], *, binary: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [len(values)],
        "datatype": "INT64",
        "values": values,
        "binary": binary,
    }


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("form", ["binary", "json", "mixed"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_in_every_form_and_encoding_is_answered(
    client: Client, datatype: str, form: str, encoding: str | None
) -> None:
    inputs = inputs_for(datatype, x=form != "json", bias=form == "binary")
    answered = client(
        "infer",
        f"sum_{DATATYPES[datatype]}",
        inputs=inputs,
        outputs=[{"name": "scores", "binary": form != "json"}],
        options={
            "request_compression_algorithm": encoding,
            "response_compression_algorithm": encoding,
            "request_id": f"call-{datatype}",
        },
    )
    if datatype == "FP16" and form != "binary":
        assert answered["status"] == "400"
        assert "has no JSON form; send it as binary data" in answered["message"]
        return
    assert answered["arrays"]["scores"] == {"dtype": "float32", "values": expected(datatype)}
    assert answered["response"]["id"] == f"call-{datatype}"
    assert answered["response"]["model_version"] == VERSION


@pytest.mark.parametrize("version", ["", "7", VERSION])
def test_a_named_version_is_the_bundle_or_the_part_before_its_digest(
    client: Client, version: str
) -> None:
    answered = client(
        "infer",
        "sum_float32",
        inputs=inputs_for("FP32", x=True, bias=True),
        options={"model_version": version},
    )
    assert answered["arrays"]["scores"]["values"] == expected("FP32")


def test_candidates_of_a_real_sequence_model_are_scored(client: Client) -> None:
    answered = client("infer", "ranker", inputs=[history([3, 4]), tensor("id", [5, 6, 7])])
    arrays = answered["arrays"]
    assert sorted(arrays) == ["scores", "uncertainty"]
    assert len(arrays["scores"]["values"]) == 3
    assert np.isfinite(arrays["scores"]["values"]).all()
    assert 0.0 <= arrays["uncertainty"]["values"][0] <= 1.0
    assert answered["response"]["parameters"]["threshold"] == 0.6


def test_the_best_of_a_whole_catalogue_come_best_first(client: Client) -> None:
    answered = client("infer", "ranker", inputs=[history([3, 4]), tensor("k", [5])])
    arrays = answered["arrays"]
    assert arrays["scores"]["values"] == sorted(arrays["scores"]["values"], reverse=True)
    assert arrays["items"]["dtype"] == "int64"
    assert not {3, 4} & set(arrays["items"]["values"])


def test_more_than_the_catalogue_holds_is_all_of_it_without_holes(client: Client) -> None:
    answered = client("infer", "ranker", inputs=[history([3, 4]), tensor("k", [100])])
    assert len(answered["arrays"]["items"]["values"]) == 38  # 40 items but the history
    assert np.isfinite(answered["arrays"]["scores"]["values"]).all()


def test_outputs_come_in_the_order_and_form_asked_for(client: Client) -> None:
    wanted = [
        {"name": "items", "binary": False},
        {"name": "uncertainty", "binary": True},
        {"name": "scores", "binary": True},
    ]
    answered = client(
        "infer", "ranker", inputs=[history([3]), tensor("k", [4], binary=False)], outputs=wanted
    )
    given = answered["response"]["outputs"]
    assert [output["name"] for output in given] == ["items", "uncertainty", "scores"]
    assert ["data" in output for output in given] == [True, False, False]
    assert len(answered["arrays"]["scores"]["values"]) == 4


def test_an_empty_history_is_a_tensor_of_no_bytes(client: Client) -> None:
    answered = client("infer", "ranker", inputs=[history([]), tensor("id", [5])])
    assert len(answered["arrays"]["scores"]["values"]) == 1


def test_a_timeout_in_microseconds_is_the_deadline(client: Client) -> None:
    answered = client(
        "infer",
        "ranker",
        inputs=[history([3]), tensor("id", [5])],
        options={"timeout": 1},
    )
    assert answered["status"] == "504"
    assert "deadline" in answered["message"]


ONE = {"shape": [1], "datatype": "INT64", "values": [1], "binary": True}
ERRORS = {
    "unknown model": ({"args": ["nobody"], "inputs": [history([1])]}, "404", "no model 'nobody'"),
    "unknown version": (
        {"inputs": [history([1]), tensor("id", [2])], "options": {"model_version": "99"}},
        "404",
        "not in the pinned version 99",
    ),
    "unknown input": ({"inputs": [{**ONE, "name": "user"}]}, "400", "has no input 'user'"),
    "missing input": ({"inputs": [tensor("id", [1])]}, "400", "the model also takes history"),
    "input twice": ({"inputs": [history([1]), history([1])]}, "400", "given twice"),
    "candidates and k": (
        {"inputs": [history([1]), tensor("id", [1]), tensor("k", [1])]},
        "400",
        "either id",
    ),
    "neither candidates nor k": ({"inputs": [history([1])]}, "400", "either id"),
    "another datatype": (
        {"inputs": [{**history([1]), "datatype": "INT32"}, tensor("id", [1])]},
        "400",
        "takes INT64, got INT32",
    ),
    "text": (
        {"inputs": [{**history([1]), "datatype": "BYTES", "values": ["hiking boots"]}]},
        "400",
        "takes INT64, got BYTES",
    ),
    "brain floats": (
        {"inputs": [{**history([1]), "datatype": "BF16", "values": [1.0]}]},
        "400",
        "takes INT64, got BF16",
    ),
    "another rank": (
        {"inputs": [{**history([1]), "shape": [1, 1]}, tensor("id", [1])]},
        "400",
        "takes the shape [-1], got [1, 1]",
    ),
    "an item beyond the catalogue": (
        {"inputs": [history([1]), tensor("id", [41])]},
        "400",
        "ids go from 1 to 40",
    ),
    "no candidates": ({"inputs": [history([1]), tensor("id", [])]}, "400", "no candidates"),
    "k of nothing": ({"inputs": [history([1]), tensor("k", [0])]}, "400", "k must be from 1"),
    "unknown output": (
        {"inputs": [history([1]), tensor("id", [1])], "outputs": [{"name": "logits"}]},
        "400",
        "has no output 'logits'",
    ),
    "an output this request does not get": (
        {"inputs": [history([1]), tensor("id", [1])], "outputs": [{"name": "items"}]},
        "400",
        "gets no output 'items'",
    ),
    "classification": (
        {
            "inputs": [history([1]), tensor("id", [1])],
            "outputs": [{"name": "scores", "classes": 3}],
        },
        "400",
        "classification cannot be asked for",
    ),
    "shared memory": (
        {"inputs": [{"name": "history", "shape": [1], "datatype": "INT64", "region": "r"}]},
        "400",
        "shared_memory_region cannot be asked for",
    ),
    "a sequence of requests": (
        {"inputs": [history([1]), tensor("id", [1])], "options": {"sequence_id": 5}},
        "400",
        "keep no state",
    ),
    "an unknown content": (
        {"args": ["sum_float32"], "inputs": inputs_for("FP32", x=True, bias=True)[:1]},
        "400",
        "the model also takes bias",
    ),
}


@pytest.mark.parametrize("wrong", ERRORS)
def test_what_cannot_be_answered_is_a_status_and_a_sentence(client: Client, wrong: str) -> None:
    case, status, sentence = ERRORS[wrong]
    args = case.get("args", ["ranker"])
    answered = client("infer", *args, **{k: v for k, v in case.items() if k != "args"})
    assert answered.get("status") == status, answered
    assert sentence in answered["message"]


def test_a_number_that_is_not_finite_is_refused(client: Client) -> None:
    inputs = inputs_for("FP64", x=True, bias=True)
    inputs[0]["values"] = [[1e999, 0.0]] * ROWS
    answered = client("infer", "sum_float64", inputs=inputs)
    assert answered["status"] == "400"
    assert "not finite" in answered["message"]


def test_health_says_live_and_ready(client: Client) -> None:
    assert client("is_server_live") == {"ok": True}
    assert client("is_server_ready") == {"ok": True}
    assert client("is_model_ready", "ranker") == {"ok": True}
    assert client("is_model_ready", "sum_bool", options={"model_version": "7"}) == {"ok": True}
    assert client("is_model_ready", "nobody") == {"ok": False}
    assert client("is_model_ready", "ranker", options={"model_version": "9"}) == {"ok": False}


def test_the_server_says_what_it_can(client: Client) -> None:
    said = client("get_server_metadata")["ok"]
    assert said["name"] == "tierline"
    assert "binary_tensor_data" in said["extensions"]


def test_a_sequence_model_describes_its_tensors(client: Client) -> None:
    said = client("get_model_metadata", "ranker")["ok"]
    assert said["platform"] == "tierline_sequence"
    assert said["inputs"] == [
        {"name": "history", "datatype": "INT64", "shape": [-1]},
        {"name": "id", "datatype": "INT64", "shape": [-1]},
        {"name": "k", "datatype": "INT64", "shape": [1]},
    ]
    config = client("get_model_config", "ranker")["ok"]
    optional = {given["name"]: given["optional"] for given in config["input"]}
    assert optional == {"history": False, "id": True, "k": True}


def test_a_tensor_model_describes_the_inputs_of_its_bundle(client: Client) -> None:
    said = client("get_model_metadata", "taste")["ok"]
    assert said["inputs"] == [
        {"name": "user", "datatype": "FP32", "shape": [4]},
        {"name": "item", "datatype": "FP32", "shape": [-1, 4]},
    ]
    assert said["outputs"][0] == {"name": "scores", "datatype": "FP32", "shape": [-1]}


def test_the_statistics_count_requests_and_batches(client: Client) -> None:
    before = client("get_inference_statistics", "sum_int8")["ok"]["model_stats"][0]
    for _ in range(3):
        client("infer", "sum_int8", inputs=inputs_for("INT8", x=True, bias=True))
    (after,) = client("get_inference_statistics", "sum_int8")["ok"]["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["last_inference"] > 1_700_000_000_000
    assert after["batch_stats"][0]["batch_size"] == 256  # 200 rows, rounded up
    every = client("get_inference_statistics")["ok"]["model_stats"]
    assert {"ranker", "taste", "sum_bool"} <= {each["name"] for each in every}


def test_the_index_lists_every_model_and_its_state(client: Client) -> None:
    index = client("get_model_repository_index")["ok"]
    states = {row["name"]: (row["state"], row["version"]) for row in index}
    assert states["sum_bool"] == ("READY", VERSION)
    assert len(states) == 15


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_without_access_control_nobody_loads_or_unloads(client: Client, call: str) -> None:
    answered = client(call, "taste")
    assert answered["status"] == "403"
    assert "need access control" in answered["message"]


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("get_log_settings", []),
        ("get_trace_settings", []),
        ("update_trace_settings", ["ranker", {}]),
        ("get_system_shared_memory_status", []),
        ("register_system_shared_memory", ["r", "/r", 8]),
        ("get_cuda_shared_memory_status", []),
        ("unregister_cuda_shared_memory", []),
    ],
)
def test_parts_that_are_not_served_say_so(client: Client, call: str, args: list[Any]) -> None:
    answered = client(call, *args)
    assert answered["status"] == "501"
    assert "is not served here" in answered["message"]

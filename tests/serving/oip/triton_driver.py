"""Drives the stock Triton client in a process of its own: triton_driver.py sync|aio HOST:PORT.

Reads one JSON object a line, does what it says, answers with one a line. The synchronous client
rests on gevent, which must not meet the other tests.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

Case = dict[str, Any]  # Any: JSON


def arguments(case: Case, client: Any) -> Case:
    """The keyword arguments of ``infer``."""
    inputs = []
    for given in case["inputs"]:
        tensor = client.InferInput(given["name"], given["shape"], given["datatype"])
        if "region" in given:
            tensor.set_shared_memory(given["region"], 8)
        else:
            dtype = triton_to_np_dtype(given["datatype"])
            array = np.array(given["values"], dtype).reshape(given["shape"])
            tensor.set_data_from_numpy(array, binary_data=given["binary"])
        inputs.append(tensor)
    outputs = None
    if case.get("outputs") is not None:
        outputs = [
            client.InferRequestedOutput(
                o["name"], binary_data=o.get("binary", True), class_count=o.get("classes", 0)
            )
            for o in case["outputs"]
        ]
    return {"inputs": inputs, "outputs": outputs, **case.get("options", {})}


def outcome(case: Case, result: Any) -> Case:
    """What a result says, as JSON."""
    if case["call"] != "infer":
        return {"ok": result}
    response = result.get_response()
    arrays = {o["name"]: result.as_numpy(o["name"]) for o in response["outputs"]}
    return {
        "response": response,
        "arrays": {n: {"dtype": str(a.dtype), "values": a.tolist()} for n, a in arrays.items()},
    }


def failure(error: InferenceServerException) -> Case:
    return {"status": error.status(), "message": error.message()}


def sync(address: str) -> None:
    with tritonclient.http.InferenceServerClient(address) as client:
        for line in sys.stdin:
            case = json.loads(line)
            try:
                given = case.get("options", {})
                if case["call"] == "infer":
                    given = arguments(case, tritonclient.http)
                said = outcome(case, getattr(client, case["call"])(*case["args"], **given))
            except InferenceServerException as error:
                said = failure(error)
            print(json.dumps(said), flush=True)


async def aio(address: str) -> None:
    loop = asyncio.get_running_loop()
    async with tritonclient.http.aio.InferenceServerClient(address) as client:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            case = json.loads(line)
            try:
                given = case.get("options", {})
                if case["call"] == "infer":
                    given = arguments(case, tritonclient.http.aio)
                said = outcome(case, await getattr(client, case["call"])(*case["args"], **given))
            except InferenceServerException as error:
                said = failure(error)
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "sync":
        sync(sys.argv[2])
    else:
        asyncio.run(aio(sys.argv[2]))

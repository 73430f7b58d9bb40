"""FastAPI with JSON-free binary bodies is measured always; products come from their own installs.

``run.py --peers litserve,mlserver`` makes an environment for each below ``.venvs/`` of the checkout
(git ignores it), installs the product there and measures it in the same run, each in the fastest
of its own forms here. Ray Serve and TorchServe (a JVM) are not among them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import load
import numpy as np
from numpy.typing import NDArray
from workloads import Workload

HERE = Path(__file__).resolve().parent
VENVS = HERE.parent.parent / ".venvs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How to install, start and ask one product."""

    packages: tuple[str, ...]
    script: str
    numpy: str = "<3"
    body: Callable[[Workload], bytes]
    path: str  # with {model} where it names one
    headers: Callable[[Workload], dict[str, str]]

    @property
    def python(self) -> Path:
        """The interpreter of its own environment."""
        return VENVS / f"serving-{self.script.removesuffix('_peer.py')}" / "bin" / "python"

    def install(self) -> None:
        """Make the environment, unless it is there."""
        if self.python.exists():
            return
        folder = self.python.parent.parent
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = [*self.packages, "onnxruntime==1.31.1", f"numpy{self.numpy}"]
        subprocess.run([str(self.python), "-m", "pip", "install", "-q", *wanted], check=True)

    def command(self, workload: Workload) -> list[str]:
        """What starts it."""
        return [str(self.python), str(HERE / self.script), workload.name, str(workload.onnx)]

    def message(self, workload: Workload) -> bytes:
        """One request's bytes."""
        path = self.path.format(model=workload.name)
        return load.post(path, self.body(workload), self.headers(workload))


def _json(workload: Workload) -> bytes:
    query, rows = workload.arrays()
    arrays = {**query, **rows}
    return json.dumps({name: array.tolist() for name, array in arrays.items()}).encode()


def _raw(workload: Workload) -> bytes:
    return workload.raw()


def _inference_json(workload: Workload) -> bytes:
    """The Open Inference Protocol, version 2, in JSON."""
    inputs = [
        {**about, "data": array.ravel().tolist()} for about, array in _tensors(workload, batch=())
    ]
    return json.dumps({"inputs": inputs}).encode()


def _inference_head(workload: Workload) -> bytes:
    inputs = [
        {**about, "parameters": {"binary_data_size": array.nbytes}}
        for about, array in _tensors(workload, batch=(1,))
    ]
    outputs = [{"name": "scores", "parameters": {"binary_data": True}}]
    return json.dumps({"inputs": inputs, "outputs": outputs}).encode()


def _inference_binary(workload: Workload) -> bytes:
    """The same with the binary tensor extension, one request a row of the batch."""
    return _inference_head(workload) + workload.raw()


def _tensors(
    workload: Workload, batch: tuple[int, ...]
) -> list[tuple[dict[str, object], NDArray[np.generic]]]:
    kinds = {"float32": "FP32", "int64": "INT64"}
    query, rows = workload.arrays()
    return [
        ({"name": n, "shape": [*batch, *a.shape], "datatype": kinds[a.dtype.name]}, a)
        for n, a in {**query, **rows}.items()
    ]


def _as(kind: str) -> Callable[[Workload], dict[str, str]]:
    return lambda _: {"content-type": kind}


def _as_binary_inference(workload: Workload) -> dict[str, str]:
    length = str(len(_inference_head(workload)))
    return {"content-type": "application/octet-stream", "inference-header-content-length": length}


PEERS = {
    "bentoml": Peer(
        packages=("bentoml==1.4.39",),
        script="bentoml_peer.py",
        body=_raw,
        path="/score",
        headers=_as("application/octet-stream"),
    ),
    "litserve": Peer(
        packages=("litserve==0.2.19",),
        script="litserve_peer.py",
        body=_json,
        path="/predict",
        headers=_as("application/json"),
    ),
    "mlserver": Peer(
        packages=("mlserver==1.7.1",),
        script="mlserver_peer.py",
        body=_inference_json,
        path="/v2/models/{model}/infer",
        headers=_as("application/json"),
    ),
    "pytriton": Peer(
        packages=("nvidia-pytriton==0.7.0",),
        script="pytriton_peer.py",
        numpy="<2",
        body=_inference_binary,
        path="/v2/models/{model}/infer",
        headers=_as_binary_inference,
    ),
}

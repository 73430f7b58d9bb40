"""Triton (PyTriton's binary; its Python backend, the wheel has no other), with dynamic batching."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from raw_model import FEATURES, HISTORY, RawModel

CANDIDATES = 100
BATCH = 32


class Joined(RawModel):
    """Several requests in one run of the whole graph."""

    def scores(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of each request, one row a request."""
        if not self._is_rank:
            return {"scores": self._session.run(["scores"], arrays)[0]}
        user, item = arrays["user"], arrays["item"]
        rows = len(user) * CANDIDATES
        feed = {
            "user": np.repeat(user, CANDIDATES, axis=0),
            "item": item.reshape(rows, FEATURES),
        }
        return {"scores": self._session.run(["scores"], feed)[0].reshape(-1, CANDIDATES)}


def inputs(name: str) -> list[Tensor]:
    """What one request brings."""
    if name.startswith("w1"):
        return [
            Tensor(name="user", dtype=np.float32, shape=(FEATURES,)),
            Tensor(name="item", dtype=np.float32, shape=(CANDIDATES, FEATURES)),
        ]
    return [
        Tensor(name="history", dtype=np.int64, shape=(HISTORY,)),
        Tensor(name="id", dtype=np.int64, shape=(CANDIDATES,)),
    ]


def main(name: str, graph: str) -> None:
    """Serve until terminated."""
    onnxruntime.set_default_logger_severity(3)
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    config = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics, log_verbose=0)
    model = Joined(name, graph)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=batch(model.scores),
            inputs=inputs(name),
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(CANDIDATES,))],
            config=ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher()),
        )
        print(http, flush=True)
        triton.serve()


if __name__ == "__main__":
    # Its backend process must find the library of this very interpreter, not of the system's.
    library = str(sysconfig.get_config_var("LIBDIR"))
    if os.environ.get("LD_LIBRARY_PATH") != library:
        os.environ["LD_LIBRARY_PATH"] = library
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main(sys.argv[1], sys.argv[2])

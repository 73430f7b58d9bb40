"""LitServe with JSON bodies, one worker, no batching; its other forms are slower here."""

from __future__ import annotations

import socket
import sys

import litserve
import numpy as np
from raw_model import RawModel


class Ranker(litserve.LitAPI):
    """decode → session → encode."""

    def setup(self, device: str) -> None:
        """Open the session in the worker."""
        self._name = sys.argv[1]
        self._model = RawModel(sys.argv[1], sys.argv[2])

    def decode_request(self, request: dict[str, list]) -> bytes:
        """JSON lists to the bytes the other servers get."""
        kind = np.float32 if self._name.startswith("w1") else np.int64
        return b"".join(np.asarray(array, kind).tobytes() for array in request.values())

    def predict(self, body: bytes) -> bytes:
        """One request's scores."""
        return self._model.score(body)

    def encode_response(self, scores: bytes) -> dict[str, list]:
        """Scores as a JSON list."""
        return {"scores": np.frombuffer(scores, np.float32).tolist()}


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = litserve.LitServer(Ranker(), accelerator="cpu", workers_per_device=1)
    print(port, flush=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")

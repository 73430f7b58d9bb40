"""Raw request bytes → session → raw scores: what every peer's handler does, in numpy alone."""

from __future__ import annotations

import numpy as np
import onnxruntime

FEATURES, HISTORY = 64, 50


class RawModel:
    """One whole graph on one thread."""

    def __init__(self, name: str, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._is_rank = name.startswith("w1")

    def feed(self, body: bytes) -> dict[str, np.ndarray]:
        """The session's inputs for one request."""
        if self._is_rank:
            numbers = np.frombuffer(body, np.float32).reshape(-1, FEATURES)
            user = np.empty((len(numbers) - 1, FEATURES), np.float32)
            user[:] = numbers[0]
            return {"user": user, "item": numbers[1:]}
        ids = np.frombuffer(body, np.int64)
        return {"history": ids[None, :HISTORY], "id": ids[None, HISTORY:]}

    def score(self, body: bytes) -> bytes:
        """One request's scores, float32."""
        answered: np.ndarray = self._session.run(["scores"], self.feed(body))[0]
        return answered.tobytes()

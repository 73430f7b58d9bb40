"""MLServer with the Open Inference Protocol in JSON, in its own process, without parallel workers:
what its authors advise for small models on one core."""

from __future__ import annotations

import asyncio
import socket
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from raw_model import RawModel


class Ranker(MLModel):
    """decode → session → encode."""

    async def load(self) -> bool:
        """Open the session."""
        self._model = RawModel(self.name, str(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request's scores."""
        body = b"".join(NumpyCodec.decode_input(each).tobytes() for each in payload.inputs)
        scores = np.frombuffer(self._model.score(body), np.float32)
        answered = NumpyCodec.encode_output("scores", scores)
        return InferenceResponse(model_name=self.name, outputs=[answered])


async def main(name: str, graph: str) -> None:
    """Serve until terminated."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        other = free.getsockname()[1]
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=other,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
        load_models_at_startup=True,
        use_structured_logging=False,
    )
    server = MLServer(settings)
    print(port, flush=True)
    model = ModelSettings(
        name=name, implementation=Ranker, parameters=ModelParameters(uri=graph, version="1")
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))

"""BentoML, one worker: a request is a file of raw bytes, which is faster here than JSON arrays."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from raw_model import RawModel

Bytes = ContentType("application/octet-stream")


@bentoml.service(workers=1)
class Ranker:
    """The whole graph behind BentoML's own front."""

    def __init__(self) -> None:
        self._model = RawModel(os.environ["WORKLOAD"], os.environ["GRAPH"])

    @bentoml.api(route="/score")
    def score(self, body: Annotated[Path, Bytes], /) -> Annotated[bytes, Bytes]:
        """One request's scores."""
        return self._model.score(body.read_bytes())


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    print(port, flush=True)
    os.environ.update(WORKLOAD=sys.argv[1], GRAPH=sys.argv[2], BENTOML_DO_NOT_TRACK="True")
    os.chdir(Path(__file__).parent)
    serve = ["serve", "bentoml_peer:Ranker", "--host", "127.0.0.1", "--port", str(port)]
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # it logs, and nobody reads on
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *serve])

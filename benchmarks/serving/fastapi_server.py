"""FastAPI on uvicorn (uvloop, httptools) with binary bodies: the usual home-made model server."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from raw_model import RawModel

MODEL = RawModel(sys.argv[1], sys.argv[2])
app = FastAPI()


@app.post("/score")
async def score(request: Request) -> Response:
    """Raw arrays in, raw scores out."""
    body = await request.body()
    return Response(MODEL.score(body), media_type="application/octet-stream")


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])

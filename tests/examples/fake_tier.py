"""A tier without a model: an HTTP server on a thread that answers score frames by a fixed rule."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from tierline.wire import (
    CANDIDATE_IDS,
    CONTENT_TYPE,
    ScoreReply,
    ScoreRequest,
    decode_request,
    encode_reply,
)

N_ITEMS = 50
THRESHOLD = 0.5


@contextlib.contextmanager
def fake_tier(tier: str, *, uncertainty: float = 0.0) -> Iterator[str]:
    """Yields the address of a tier that likes small item ids best and skips the history."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(tier, uncertainty))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: ScoreRequest, tier: str, uncertainty: float) -> ScoreReply:
    """Score −id for every item, so that the best item is the smallest id not in the history."""
    bundle = f"{tier}-1@000000000000"
    if request.candidates is not None:
        ids = request.candidates[CANDIDATE_IDS]
        scores, items = -ids.astype(np.float32), None
    else:
        free = np.setdiff1d(np.arange(1, N_ITEMS + 1, dtype=np.int64), request.query["history"])
        items = free[: request.k]
        scores = -items.astype(np.float32)
    return ScoreReply(
        model=request.model,
        bundle=bundle,
        scores=scores,
        items=items,
        uncertainty=uncertainty,
        threshold=THRESHOLD,
    )


def _handler(tier: str, uncertainty: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave in one packet, or Nagle's algorithm adds 40 ms

        def do_GET(self) -> None:
            if self.path.endswith("/prior"):
                items = np.arange(1, N_ITEMS + 1, dtype=np.int64)
                scores = -items.astype(np.float32)
                reply = ScoreReply(model="shop", bundle="p@0", scores=scores, items=items)
                self._send(CONTENT_TYPE, b"".join(encode_reply(reply)))
            else:
                info = {"name": "shop", "bundle": f"{tier}-1@000000000000", "tier": tier}
                self._send("application/json", json.dumps(info).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            reply = answer(decode_request(body), tier, uncertainty)
            self._send(CONTENT_TYPE, b"".join(encode_reply(reply)))

        def _send(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass  # a test's output is not a log

    return Handler


def main(tier: str, port: int, uncertainty: float) -> None:
    """Serve on a given port until killed, as ``tierline edge serve`` would."""
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", port), _handler(tier, uncertainty)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

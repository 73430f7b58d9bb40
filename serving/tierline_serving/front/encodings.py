"""Content encodings, bounded: no body is ever inflated beyond the limit. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from tierline_serving.front.exchange import Refused, Response

COMPRESS_FROM: Final = 512  # bytes: a smaller answer gains nothing worth the time
COMPRESSION_LEVEL: Final = 1  # floats hardly shrink: the fastest level loses little
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # deflate is zlib's format in HTTP


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding, at most ``limit`` bytes long.

    Raises Refused: 415 for an encoding other than gzip, deflate and identity, 400 for damaged or
    truncated data, 413 as soon as the limit is passed, before the rest is inflated.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    window = _WINDOWS.get(name)
    if window is None:
        raise Refused(
            "bad_request", "the content encoding must be gzip, deflate or identity, only one", 415
        )
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused("bad_request", f"the body is not valid {name} data") from error
    if len(plain) > limit:
        raise Refused(
            "too_large", f"the body inflates beyond what this endpoint takes ({limit} bytes)"
        )
    if not inflater.eof or inflater.unused_data:
        raise Refused("bad_request", f"the body is not one whole {name} stream")
    return plain


def encoded(response: Response, accepts: str) -> Response:
    """The response, compressed when the caller takes gzip or deflate and it is worth it."""
    name = chosen_encoding(accepts)
    if name is None or len(response.body) < COMPRESS_FROM:
        return response
    deflater = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, _WINDOWS[name])
    body = deflater.compress(response.body) + deflater.flush()
    extra = ((b"content-encoding", name.encode()), (b"vary", b"accept-encoding"))
    return Response(response.status, body, (*response.headers, *extra))


def chosen_encoding(accepts: str) -> str | None:
    """gzip or deflate, whichever an Accept-Encoding header weighs more; None for neither."""
    weights: dict[str, float] = {}
    for part in accepts.lower().split(","):
        name, _, parameter = part.partition(";")
        weights[name.strip()] = _weight(parameter)
    wildcard = weights.get("*", 0.0)
    offered = {name: weights.get(name, wildcard) for name in ("gzip", "deflate")}
    best = max(offered, key=lambda name: offered[name])
    return best if offered[best] > 0.0 else None


def content_encoding(headers: Mapping[str, str]) -> str:
    """What the request says its body is encoded as; the empty text for nothing."""
    return headers.get("content-encoding", "")


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0

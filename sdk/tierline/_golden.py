"""Reads a bundle's golden requests and replies for the probes of health."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct

from tierline._core.semantic import TOLERANCE, Golden
from tierline._exceptions import ConfigurationError, FrameError
from tierline.wire import Limits, decode_reply, decode_request

FEW = 8  # as many as are asked in turn; a node checks all of them before it serves
_LENGTH = Struct("<Q")  # before every frame
_LIMITS = Limits(max_frame_bytes=2**26)
_KEY = "health.golden"


def read_golden(folder: Path) -> list[Golden]:
    """The first few golden requests of the bundle in this folder, each with the reply it must get
    from that very bundle. Raises ConfigurationError."""
    try:
        written = (folder / "manifest.json").read_bytes()
        manifest = json.loads(written)
        golden = manifest["golden"]
        requests = (folder / golden["requests"]).read_bytes()
        replies = (folder / golden["replies"]).read_bytes()
        bundle = f"{manifest['version']}@{sha256(written).hexdigest()[:12]}"
        tolerance = max(TOLERANCE, float(golden["tolerance"]))
        pairs = list(zip(_frames(requests), _frames(replies), strict=False))
        return [
            Golden(
                decode_request(asked, _LIMITS),
                decode_reply(answered, _LIMITS)._replace(bundle=bundle),
                tolerance,
            )
            for asked, answered in pairs
        ]
    except OSError as bad:
        raise ConfigurationError(f"{folder} is no bundle's folder: {bad}", key=_KEY) from bad
    except (KeyError, TypeError, ValueError) as bad:
        message = f"the manifest in {folder} does not say where its golden requests are: {bad!r}"
        raise ConfigurationError(message, key=_KEY) from bad
    except FrameError as bad:
        raise ConfigurationError(f"golden requests in {folder}: {bad}", key=_KEY) from bad


def _frames(data: bytes) -> Iterator[bytes]:
    offset = 0
    for _ in range(FEW):
        if offset + _LENGTH.size > len(data):
            return
        start = offset + _LENGTH.size
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > len(data):
            raise FrameError("a golden frame ends beyond its file")
        yield data[start:offset]

"""Serves a fake model from a process of its own: slow_server.py SETTINGS_JSON [stuck|broken]."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fake_scorer import POISON, FakeScorer, a_request

from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.server import serve
from tierline_serving.settings import ServerSettings

WARM_UP = 1  # the candidate of the warm-up request


class SlowScorer(FakeScorer):
    """Takes 5 ms a batch, as a model does, and at the end tells how much it scored for callers."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        time.sleep(0.005)
        return super().score(requests)

    def close(self) -> None:
        print(f"scored {sum(first != WARM_UP for first in self.scored)}", flush=True)


def main() -> int:
    scorer = SlowScorer()
    mode = sys.argv[2] if len(sys.argv) > 2 else ""
    if mode == "stuck":
        scorer.gate.clear()
    warm_up = (
        {"ranker": a_request(POISON if mode == "broken" else WARM_UP)} if mode != "stuck" else {}
    )
    options = json.loads(sys.argv[1])
    if "unix_socket" in options:
        options["unix_socket"] = Path(options["unix_socket"])
    return serve([scorer], ServerSettings(**options), warm_up=warm_up)


if __name__ == "__main__":
    sys.exit(main())

"""A served text bundle: the client's text queries, `/rerank` with documents, refusals as typed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import cohere
import numpy as np
import pytest

import tierline
from tierline.wire import ScoreRequest
from tierline_cloud.serve.scorer import TorchScorer
from tierline_serving.bundle import Bundle
from tierline_serving.text_requests import pack_text

PATIENCE = 60.0  # seconds after which a process that hangs is killed and the test fails


@pytest.fixture(scope="module")
def address(text_bundle: Bundle) -> Iterator[str]:
    command = [sys.executable, "-m", "tierline.cli", "cloud", "serve", str(text_bundle.path)]
    options = ["--port", "0", "--allow-unsigned", "--threads", "1", "--lame-duck", "0.1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            found = re.match(r"ready on (http://127\.0\.0\.1:\d+) ", process.stdout.readline())
            assert found
            yield found[1]
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_client_asks_in_words_and_gets_the_scorers_answer(
    address: str, scorer: TorchScorer
) -> None:
    query = {"text": pack_text("red shoes")}
    (wanted,) = scorer.score([ScoreRequest(model="products", query=query, k=3)])
    with tierline.Client(cloud=[address], deadline=PATIENCE) as client:
        answer = client.recommend("products", query={"text": "red shoes"}, k=3)
        np.testing.assert_array_equal(answer.items, wanted.items)
        np.testing.assert_array_equal(answer.scores, wanted.scores)
        with pytest.raises(tierline.BadRequest, match="something to read"):
            client.score("products", query={"text": " "}, candidates=[1])


@pytest.mark.nightly
@pytest.mark.slow
def test_the_cohere_client_ranks_free_text(address: str) -> None:
    with cohere.ClientV2(api_key="none", base_url=address) as client:
        answer: Any = client.rerank(
            model="products", query="hand soap", documents=["blue tea cup", "hand soap"]
        )
    assert sorted(result.index for result in answer.results) == [0, 1]
    assert all(0.0 < result.relevance_score < 1.0 for result in answer.results)

"""`tierline cloud serve`: refuses what it must, and serves a torch bundle over HTTP."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cloud_bundles
import numpy as np
import pytest

from tierline.cli import EXIT_DONE, EXIT_REFUSED, main
from tierline.wire import ScoreRequest, decode_reply, encode_request
from tierline_cloud.serve.scorer import TorchScorer
from tierline_serving.bundle import Bundle

PATIENCE = 60.0  # seconds after which a process that hangs is killed and the test fails


def test_an_unsigned_bundle_is_not_served(
    sasrec_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloud", "serve", str(sasrec_bundle.path)]) == EXIT_REFUSED
    assert "is not signed" in capsys.readouterr().err


def test_a_bundle_with_code_of_its_own_is_not_served_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = cloud_bundles.write_own(tmp_path)
    command = ["cloud", "serve", str(bundle.path), "--allow-unsigned", "--threads", "1"]
    assert main(command) == EXIT_REFUSED
    assert "--allow-module cloud_bundles" in capsys.readouterr().err


@pytest.mark.slow
def test_a_served_bundle_answers_as_its_scorer_does(
    sasrec_bundle: Bundle, sequence: TorchScorer
) -> None:
    options = ["--port", "0", "--allow-unsigned", "--threads", "1", "--lame-duck", "0.1"]
    command = [sys.executable, "-m", "tierline.cli", "cloud", "serve", str(sasrec_bundle.path)]
    request = ScoreRequest(model="ranker", query={"history": np.array([5, 6])}, k=4)
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            found = re.match(r"ready on http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
            assert found
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE)
            body = b"".join(encode_request(request))
            connection.request(
                "POST", "/v1/score", body, {"content-type": "application/x-tierline"}
            )
            reply = decode_reply(connection.getresponse().read())
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == EXIT_DONE
        finally:
            watchdog.cancel()
            process.kill()
    (expected,) = sequence.score([request])
    assert expected.items is not None
    assert reply.items is not None
    assert reply.items.tolist() == expected.items.tolist()
    assert reply.scores.tobytes() == expected.scores.tobytes()

"""`tierline edge`: a check says yes or why not; a served bundle answers over HTTP and drains."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_bundles

from tierline.cli import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, main
from tierline.wire import ScoreRequest, decode_reply, encode_request
from tierline_serving.bundle import Bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Trust

PATIENCE = 60.0  # seconds after which a process that hangs is killed and the test fails


def test_a_sound_bundle_passes_the_check(
    sequence_bundle: Bundle, tensor_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = [str(sequence_bundle.path), str(tensor_bundle.path)]
    assert main(["edge", "check", *bundles, "--allow-unsigned", "--threads", "1"]) == EXIT_DONE
    said = capsys.readouterr().out.splitlines()
    assert f"ranker {sequence_bundle.id} loads on onnxruntime CPUExecutionProvider" in said[0]
    assert f"taste {tensor_bundle.id} loads" in said[1]


def test_a_check_describes_the_model_as_json(
    sequence_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["edge", "check", str(sequence_bundle.path), "--allow-unsigned", "--json"]
    assert main(command) == EXIT_DONE
    described = json.loads(capsys.readouterr().out)
    assert (described["name"], described["tier"], described["kind"]) == (
        "ranker",
        "edge",
        "sequence",
    )


def test_an_unsigned_bundle_fails_the_check(
    sequence_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edge", "check", str(sequence_bundle.path)]) == EXIT_REFUSED
    assert "is not signed" in capsys.readouterr().err


def test_a_damaged_bundle_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path)
    model = bundle.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert main(["edge", "check", str(bundle.path), "--allow-unsigned"]) == EXIT_REFUSED
    assert "model.onnx is damaged" in capsys.readouterr().err


def test_a_bundle_is_found_through_the_registry(
    tmp_path: Path, sequence_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    unsigned = Trust(allow_unsigned=True)
    registry = tmp_path / "registry"
    Registry(registry).publish(sequence_bundle.path, trust=unsigned)
    Registry(registry).publish(sequence_bundle.path, trust=unsigned, channel="trial")
    for place in (f"registry:{registry}/ranker", f"registry:{registry}/ranker/trial"):
        assert main(["edge", "check", place, "--allow-unsigned"]) == EXIT_DONE
        assert sequence_bundle.id in capsys.readouterr().out


def test_a_folder_that_is_no_registry_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edge", "check", f"registry:{tmp_path}/ranker"]) == EXIT_FAILED
    assert "names no registry" in capsys.readouterr().err


def test_serving_beyond_this_machine_must_be_meant(
    sequence_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["edge", "serve", str(sequence_bundle.path), "--allow-unsigned", "--host", "0.0.0.0"]
    assert main(command) == EXIT_FAILED
    assert "allow" in capsys.readouterr().err


@contextmanager
def node(*bundles: Bundle) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A real `tierline edge serve` process and its port; killed when it takes too long."""
    folders = [str(bundle.path) for bundle in bundles]
    options = ["--port", "0", "--allow-unsigned", "--threads", "1", "--lame-duck", "0.1"]
    options += ["--log-format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tierline.cli", "edge", "serve", *folders, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"ready on http://127\.0\.0\.1:(\d+) ", line)
        assert found, line
        yield process, int(found[1])
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def asked(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"content-type": "application/x-tierline"} if body else {}
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_served_bundle_answers_and_drains(sequence_bundle: Bundle, tensor_bundle: Bundle) -> None:
    request = ScoreRequest(
        model="ranker", query={"history": np.array([5, 6])}, candidates={"id": np.array([7, 8])}
    )
    with node(sequence_bundle, tensor_bundle) as (process, port):
        assert asked(port, "GET", "/readyz")[0] == 200
        status, body = asked(port, "POST", "/v1/score", b"".join(encode_request(request)))
        assert status == 200
        reply = decode_reply(body)
        prior = decode_reply(asked(port, "GET", "/v1/models/ranker/prior")[1])
        no_prior = asked(port, "GET", "/v1/models/taste/prior")[0]
        models = json.loads(asked(port, "GET", "/v1/models")[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == EXIT_DONE
        assert process.stderr is not None
        log = [json.loads(line) for line in process.stderr]
    assert any("kernels run on cpu" in line["message"] for line in log), log
    hidden, doubt = tiny_bundles.expected_state(np.array([5, 6]), tiny_bundles.item_rows())
    np.testing.assert_allclose(reply.scores, tiny_bundles.item_rows()[[7, 8]] @ hidden, atol=1e-5)
    assert reply.bundle == sequence_bundle.id
    assert reply.uncertainty == pytest.approx(doubt, abs=1e-5)
    assert prior.items is not None
    assert prior.items.tolist() == list(range(1, tiny_bundles.ITEMS + 1))
    assert no_prior == 404
    assert {"ranker", "taste"} <= set(re.findall(r"ranker|taste", json.dumps(models)))

"""What an edge node refuses to load, and how an embedded endpoint is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundles
from onnx import helper

import tierline
from tierline import BundleRefused
from tierline.wire import ScoreReply, ScoreRequest
from tierline_edge.embedded import TRUSTED_KEYS, open_scorer
from tierline_edge.scorer import EdgeScorer, load_scorer
from tierline_serving.bundle import Bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.signing import Signer

ASKED = ScoreRequest(
    model="ranker", query={"history": np.array([1, 2])}, candidates={"id": np.array([3, 4])}
)


def with_golden(folder: Path, scorer: EdgeScorer, shift: float) -> Bundle:
    """A bundle whose golden reply is the scorer's own, moved by ``shift``."""
    (reply,) = scorer.score([ASKED])
    moved = ScoreReply(
        model="ranker",
        bundle="golden",
        scores=reply.scores + np.float32(shift),
        uncertainty=reply.uncertainty,
        threshold=reply.threshold,
    )
    return tiny_bundles.write_sequence(
        folder,
        files={"requests.bin": pack_requests([ASKED]), "replies.bin": pack_replies([moved])},
        golden={"requests": "requests.bin", "replies": "replies.bin", "tolerance": 1e-3},
    )


def test_a_bundle_that_answers_its_golden_requests_loads(
    tmp_path: Path, sequence: EdgeScorer
) -> None:
    load_scorer(with_golden(tmp_path, sequence, 0.0), threads=1)


def test_a_bundle_that_answers_otherwise_is_refused(tmp_path: Path, sequence: EdgeScorer) -> None:
    with pytest.raises(BundleRefused, match="golden request 0"):
        load_scorer(with_golden(tmp_path, sequence, 0.1), threads=1)


def test_a_torch_bundle_is_sent_to_the_cloud(tmp_path: Path) -> None:
    runtime = {"engine": "torch", "factory": "my_models:build"}
    bundle = tiny_bundles.write_sequence(tmp_path, runtime=runtime)
    with pytest.raises(BundleRefused, match="tierline cloud serve"):
        load_scorer(bundle)


def test_a_graph_that_takes_other_inputs_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, model=tiny_bundles.ranker())
    with pytest.raises(BundleRefused, match="takes embedded and mask, this one takes item, user"):
        load_scorer(bundle, threads=1)


def test_a_graph_that_lacks_an_output_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, model=tiny_bundles.encoder(hidden="state"))
    with pytest.raises(BundleRefused, match="lacks the outputs \\['hidden'\\]"):
        load_scorer(bundle, threads=1)


def test_a_tensor_graph_that_lacks_its_uncertainty_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_tensor(tmp_path, uncertainty={"output": "doubt"})
    with pytest.raises(BundleRefused, match="lacks outputs \\['doubt'\\]"):
        load_scorer(bundle, threads=1)


def dividing_encoder() -> bytes:
    """0 / 0 where the history is empty."""
    weights = {"middle": np.array([1], np.int64)}
    nodes = [
        helper.make_node("ReduceSum", ["embedded", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["length"], keepdims=1),
        helper.make_node("Div", ["total", "length"], ["hidden"]),
    ]
    inputs: dict[str, list[Any]] = {
        "embedded": ["requests", tiny_bundles.HISTORY, tiny_bundles.DIM],
        "mask": ["requests", tiny_bundles.HISTORY],
    }
    return tiny_bundles.graph(nodes, inputs, {"hidden": ["requests", tiny_bundles.DIM]}, weights)


def test_an_encoder_without_an_answer_to_an_empty_history_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, model=dividing_encoder(), uncertainty=None)
    with pytest.raises(
        BundleRefused, match=r"does not run: .*hidden holds numbers that are not finite"
    ):
        load_scorer(bundle, threads=1)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["mask", "middle"], ["hidden"], keepdims=1),
        helper.make_node("ReduceSum", ["embedded", "all"], ["unused"], keepdims=0),
    ]
    weights = {"middle": np.array([1], np.int64), "all": np.array([0, 1, 2], np.int64)}
    inputs: dict[str, list[Any]] = {"embedded": ["b", 6, 8], "mask": ["b", 6]}
    model = tiny_bundles.graph(nodes, inputs, {"hidden": ["b", 1], "unused": []}, weights)
    bundle = tiny_bundles.write_sequence(tmp_path, model=model, uncertainty=None)
    with pytest.raises(BundleRefused, match=r"hidden must be float32 \[16, 8\]"):
        load_scorer(bundle, threads=1)


def test_an_embedded_endpoint_takes_no_unsigned_bundle_unasked(sequence_bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match="not signed"):
        open_scorer(str(sequence_bundle.path), allow_unsigned=False)


def test_an_embedded_endpoint_trusts_the_keys_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, stranger = Signer.generate(), Signer.generate()
    signer.save(tmp_path / "private.pem", tmp_path / "public.pem")
    stranger.save(tmp_path / "theirs.pem", tmp_path / "their-public.pem")
    bundle = tiny_bundles.write_sequence(tmp_path / "bundles", signer=signer)
    both = os.pathsep.join(str(tmp_path / name) for name in ("their-public.pem", "public.pem"))
    monkeypatch.setenv(TRUSTED_KEYS, both)
    assert open_scorer(str(bundle.path), allow_unsigned=False).info.bundle == bundle.id
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "their-public.pem"))
    with pytest.raises(BundleRefused, match="not a trusted one"):
        open_scorer(str(bundle.path), allow_unsigned=False)


def test_a_client_scores_through_an_embedded_endpoint(sequence_bundle: Bundle) -> None:
    place = f"embedded:{sequence_bundle.path}"
    with tierline.Client(edge=[place], allow_unsigned=True, deadline=30.0) as client:
        answer = client.score("ranker", query={"history": [1, 2]}, candidates=[3, 4])
        best = client.recommend("ranker", query={"history": [1, 2]}, k=3)
    assert (answer.tier, answer.bundle) == ("edge", sequence_bundle.id)
    hidden, _ = tiny_bundles.expected_state(np.array([1, 2]), tiny_bundles.item_rows())
    np.testing.assert_allclose(answer.scores, tiny_bundles.item_rows()[[3, 4]] @ hidden, atol=1e-5)
    assert best.items is not None
    assert len(best.items) == 3

"""A module that a bundle brings: imported only when allowed, and held to its contract."""

from __future__ import annotations

from pathlib import Path

import cloud_bundles
import numpy as np
import pytest
from cloud_bundles import FEATURES
from safetensors.numpy import load

from tierline import BadRequest, BundleRefused, ModelFailed
from tierline.wire import ScoreRequest
from tierline_cloud.serve.scorer import TorchScorer, load_scorer

ALLOWED = ["cloud_bundles"]


def ask(seed: int, rows: int) -> ScoreRequest:
    dice = np.random.default_rng(seed)
    return ScoreRequest(
        model="taste",
        query={"user": dice.standard_normal(FEATURES).astype(np.float32)},
        candidates={"item": dice.standard_normal((rows, FEATURES)).astype(np.float32)},
    )


def test_rows_score_as_the_module_says(own: TorchScorer, tmp_path: Path) -> None:
    weights = load(cloud_bundles.write_own(tmp_path).model_bytes())["mix.weight"]
    request = ask(1, 5)
    assert request.candidates is not None
    (reply,) = own.score([request])
    expected = (request.candidates["item"] @ weights.T) @ request.query["user"]
    np.testing.assert_allclose(reply.scores, expected, atol=1e-5)
    assert reply.scores.dtype == np.float32


def test_an_answer_does_not_depend_on_its_batch_mates(own: TorchScorer) -> None:
    requests = [ask(seed, rows) for seed, rows in ((1, 1), (2, 7), (3, 30))]
    for request, together in zip(requests, own.score(requests), strict=True):
        (alone,) = own.score([request])
        assert together.scores.tobytes() == alone.scores.tobytes()


def test_read_only_arrays_of_a_frame_are_scored(own: TorchScorer) -> None:
    request = ask(1, 3)
    assert request.candidates is not None
    request.candidates["item"].flags.writeable = False
    assert own.score([request])[0].scores.shape == (3,)


def test_a_tensor_model_has_no_catalogue(own: TorchScorer) -> None:
    with pytest.raises(BadRequest, match="cannot recommend"):
        own.validate(ScoreRequest(model="taste", query=ask(1, 1).query, k=3))


def test_code_that_is_not_allowed_is_not_imported(tmp_path: Path) -> None:
    bundle = cloud_bundles.write_own(tmp_path)
    with pytest.raises(BundleRefused, match="--allow-module cloud_bundles"):
        load_scorer(bundle, threads=1, allowed=["cloud"])


@pytest.mark.parametrize(
    ("function", "config", "sentence"),
    [
        ("absent", {}, "AttributeError"),
        ("taste", {"depth": 3}, "TypeError"),
        ("taste", {"width": 5}, "the weights do not fit"),
        ("describe", {}, "made no torch module"),
    ],
)
def test_a_factory_that_makes_no_fitting_module_is_refused(
    tmp_path: Path, function: str, config: dict[str, object], sentence: str
) -> None:
    bundle = cloud_bundles.write_own(tmp_path, function, **config)
    with pytest.raises(BundleRefused, match=sentence):
        load_scorer(bundle, threads=1, allowed=ALLOWED)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("raises", "KeyError"), ("short", r"must answer a tensor \[3\]"), ("inf", "not finite")],
)
def test_a_module_that_breaks_its_contract_fails_by_name(
    tmp_path: Path, fault: str, sentence: str
) -> None:
    scorer = load_scorer(
        cloud_bundles.write_own(tmp_path, "wrong", fault=fault), threads=1, allowed=ALLOWED
    )
    with pytest.raises(ModelFailed, match=sentence):
        scorer.score([ask(1, 3)])


def test_an_onnx_bundle_is_sent_to_the_edge(tmp_path: Path) -> None:
    bundle = cloud_bundles.write_sasrec(
        tmp_path,
        kind="tensor",
        sequence=None,
        inputs=[{"name": "x", "dtype": "float32", "shape": ["rows"], "role": "candidate"}],
        runtime={"engine": "onnx", "entry": "model.safetensors", "opset": 18},
        prior=None,
    )
    with pytest.raises(BundleRefused, match="tierline edge serve"):
        load_scorer(bundle, threads=1)

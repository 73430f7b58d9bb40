"""A text bundle answers score and recommend, checks what it is asked, is refused when broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tierline import BadRequest, BundleRefused
from tierline.wire import ScoreRequest
from tierline_cloud.serve.scorer import TorchScorer, load_scorer
from tierline_cloud.text.encoding import Role, TextEncoder
from tierline_cloud.text.index import TextIndex
from tierline_serving.bundle import Bundle, Trust, open_bundle, write_bundle
from tierline_serving.text_requests import pack_text, pack_texts

Candidates = dict[str, NDArray[np.generic]]


def _asked(text: str, candidates: Candidates | None = None, k: int | None = None) -> ScoreRequest:
    query = {"text": pack_text(text)}
    return ScoreRequest(model="products", query=query, candidates=candidates, k=k)


def test_a_recommendation_is_the_indexes_search(
    scorer: TorchScorer, index: TextIndex, encoder: TextEncoder
) -> None:
    (reply,) = scorer.score([_asked("red shoes", k=3)])
    items, scores = index.search(encoder.encode("red shoes", Role.QUERY), 3, rescored=4)
    np.testing.assert_array_equal(reply.items, items)
    np.testing.assert_array_equal(reply.scores, scores)
    assert (reply.model, reply.bundle) == ("products", scorer.info.bundle)


def test_candidates_are_scored_as_a_search_scores_them(scorer: TorchScorer) -> None:
    (found,) = scorer.score([_asked("red shoes", k=4)])
    assert found.items is not None
    (scored,) = scorer.score([_asked("red shoes", {"id": found.items})])
    np.testing.assert_array_equal(scored.scores, found.scores)
    assert scored.items is None


def test_a_document_scores_as_the_item_of_the_same_text(scorer: TorchScorer) -> None:
    documents = pack_texts(["hand soap", "waterproof hiking boots for men"])
    (brought,) = scorer.score([_asked("soap", {"text": documents})])
    (stored,) = scorer.score([_asked("soap", {"id": np.array([3, 2])})])
    np.testing.assert_allclose(brought.scores, stored.scores, atol=1e-5)


def test_an_answer_knows_no_neighbours(scorer: TorchScorer) -> None:
    asked = [
        _asked("red shoes", k=3),
        _asked("tea", {"id": np.array([1, 4])}),
        _asked("a lamp for kids", k=10),
        _asked("soap", {"text": pack_texts(["hand soap", "oak"])}),
    ]
    alone = [scorer.score([request])[0].scores.tobytes() for request in asked]
    together = [reply.scores.tobytes() for reply in scorer.score(asked)]
    turned = [reply.scores.tobytes() for reply in scorer.score(asked[::-1])]
    assert alone == together == turned[::-1]


def test_a_model_tells_what_it_is_and_what_it_weighs(scorer: TorchScorer) -> None:
    info = scorer.info
    assert (info.kind, info.tier, info.engine) == ("text", "cloud", "torch cpu")
    assert info.details["items"] == 10
    assert info.details["bytes"] == {
        "encoder": 7136,
        "vectors": 11 * 12,
        "tokens": 34 * 12 + 12 * 8,
        "tokens_float32": 34 * 32,
    }


def test_rows_say_what_a_request_costs(scorer: TorchScorer) -> None:
    assert scorer.rows(_asked("tea", k=3)) == 4  # as many are rescored
    assert scorer.rows(_asked("tea", k=9)) == 9
    assert scorer.rows(_asked("tea", {"id": np.array([1, 2, 3])})) == 3
    assert scorer.rows(_asked("tea", {"text": pack_texts(["a", "b"])})) == 128


@pytest.mark.parametrize(
    ("query", "candidates", "k", "sentence"),
    [
        ({"history": np.array([1])}, None, 3, "query must be {'text': bytes}"),
        ({"text": np.array([1, 2])}, None, 3, "uint8 \\[n\\], got int64"),
        ({"text": np.array([[65]], np.uint8)}, None, 3, "uint8 \\[n\\], got uint8 \\(1, 1\\)"),
        ({"text": np.array([], np.uint8)}, None, 3, "something to read"),
        ({"text": np.array([65, 0], np.uint8)}, None, 3, "and no NUL"),
        ({"text": np.array([195, 40], np.uint8)}, None, 3, "no UTF-8"),
        ({"text": np.full(16_385, 65, np.uint8)}, None, 3, "may be 16384 bytes"),
        ({}, None, None, "query must be"),
        (None, None, None, "k must be from 1 to 10000, got None"),
        (None, None, 10_001, "k must be from 1 to 10000"),
        (None, {"id": np.array([0])}, None, "hold item 0; ids go from 1 to 10"),
        (None, {"id": np.array([11])}, None, "hold item 11"),
        (None, {"id": np.array([], np.int64)}, None, "must be item ids"),
        (None, {"id": np.array([1.0])}, None, "must be item ids"),
        (None, {"price": np.array([1])}, None, "item ids \\('id'\\) or texts"),
        (None, {"text": np.array([65], np.uint8)}, None, "uint8 \\[texts, longest\\]"),
        (None, {"text": np.zeros((1, 4), np.uint8)}, None, "something to read"),
        (None, {"text": np.zeros((0, 4), np.uint8)}, None, "no candidates"),
        (None, {"text": np.array([[65, 0, 65]], np.uint8)}, None, "and no NUL"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(
    scorer: TorchScorer,
    query: Candidates | None,
    candidates: Candidates | None,
    k: int | None,
    sentence: str,
) -> None:
    asked = {"text": pack_text("tea")} if query is None else query
    with pytest.raises(BadRequest, match=sentence):
        scorer.validate(ScoreRequest(model="products", query=asked, candidates=candidates, k=k))


@pytest.mark.parametrize("text", ["", " \n", "a\0b", "\ud800", "x" * 16_385])
def test_a_text_that_does_not_travel_says_why(text: str) -> None:
    with pytest.raises(BadRequest, match="text"):
        pack_text(text)


def test_one_long_text_among_many_is_too_much() -> None:
    with pytest.raises(BadRequest, match="too much for one request"):
        pack_texts(["x" * 16_000, *["y"] * 2_000])


def _rewritten(bundle: Bundle, folder: Path, files: dict[str, bytes], **changes: object) -> Bundle:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest.pop("files")
    kept: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    return write_bundle(kept | files, manifest | changes, folder)


def _npy(array: NDArray[np.generic], folder: Path) -> bytes:
    np.save(folder / "array.npy", array)
    return (folder / "array.npy").read_bytes()


@pytest.mark.parametrize(
    ("offsets", "sentence"),
    [
        (np.arange(12, dtype=np.int32), "must be int64"),
        (np.arange(11), "must be int64 \\[items \\+ 2\\]"),
        (np.arange(12), "must give every item"),
        (np.array([0, 0, 4, 4, 11, 14, 19, 22, 24, 27, 30, 34]), "must give every item"),
    ],
)
def test_offsets_that_leave_an_item_without_tokens_are_refused(
    text_bundle: Bundle, tmp_path: Path, offsets: NDArray[np.generic], sentence: str
) -> None:
    broken = _rewritten(text_bundle, tmp_path, {"tokens.offsets.npy": _npy(offsets, tmp_path)})
    with pytest.raises(BundleRefused, match=sentence):
        load_scorer(broken, threads=1)


def test_an_encoder_that_does_not_fit_is_refused(text_bundle: Bundle, tmp_path: Path) -> None:
    runtime = json.loads((text_bundle.path / "manifest.json").read_text())["runtime"]
    runtime["config"]["encoder"]["layers"] = 3
    broken = _rewritten(text_bundle, tmp_path, {}, runtime=runtime)
    with pytest.raises(BundleRefused, match="the encoder does not load"):
        load_scorer(broken, threads=1)


def test_another_encoder_fails_the_golden_requests(text_bundle: Bundle, tmp_path: Path) -> None:
    runtime = json.loads((text_bundle.path / "manifest.json").read_text())["runtime"]
    runtime["config"]["encoder"]["activation"] = "relu"
    broken = _rewritten(text_bundle, tmp_path, {}, runtime=runtime)
    with pytest.raises(BundleRefused, match="golden request"):
        load_scorer(broken, threads=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text": None}, "text: belongs to kind text"),
        ({"kind": "tensor"}, "text: belongs to kind text"),
        ({"tables": {}}, "which tables does not hold"),
        ({"runtime": {"engine": "onnx", "entry": "tokenizer.json", "opset": 18}}, "engine torch"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    text_bundle: Bundle, tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(BundleRefused, match=sentence):
        _rewritten(text_bundle, tmp_path, {}, **change)


def test_a_changed_tokenizer_is_refused(text_bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(text_bundle.path, tmp_path / "copy")
    tokenizer = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(tokenizer.replace("shoes", "shoos"))
    with pytest.raises(BundleRefused, match=r"tokenizer.json is damaged"):
        open_bundle(copy, Trust(allow_unsigned=True))

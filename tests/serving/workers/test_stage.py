"""Private copies: made once, verified, mapped, and gone with the last who needs them."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "edge"))

import tiny_bundles

from tierline import BundleRefused
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_edge.scorer import load_scorer
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.signing import Trust
from tierline_serving.workers.stage import Stage


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    written = tiny_bundles.write_sequence(tmp_path / "built")
    return open_bundle(written.path, Trust(allow_unsigned=True))


def copies(stage: Path) -> list[str]:
    return [each.name for each in stage.iterdir() if each.is_dir()]


def test_a_copy_is_made_once_and_deleted_by_the_last_who_lets_go(
    tmp_path: Path, bundle: Bundle
) -> None:
    stage = Stage(tmp_path / "stage")
    first, hold = stage.take(bundle)
    made = (first.path / "model.onnx").stat().st_ino
    second, other = Stage(tmp_path / "stage").take(bundle)
    assert (second.path / "model.onnx").stat().st_ino == made
    assert (first.id, first.is_private) == (bundle.id, True)
    hold.let_go()
    assert copies(tmp_path / "stage") == [first.path.name]
    other.let_go()
    other.let_go()
    assert copies(tmp_path / "stage") == []


def test_a_scorer_of_a_copy_maps_its_table_and_frees_it_in_the_end(
    tmp_path: Path, bundle: Bundle
) -> None:
    copy, hold = Stage(tmp_path / "stage").take(bundle)
    scorer = load_scorer(copy, threads=1)
    hold.end_with(copy)
    mapped = Path("/proc/self/maps").read_text()
    assert f"{copy.path.name}/items.npy" in mapped
    asked = ScoreRequest(
        model="ranker",
        query={"history": np.array([3], np.int64)},
        candidates={CANDIDATE_IDS: np.array([1, 2], np.int64)},
    )
    answers = [each.score([asked])[0].scores for each in (scorer, load_scorer(bundle, threads=1))]
    np.testing.assert_array_equal(*answers)
    del copy
    gc.collect()
    assert len(copies(tmp_path / "stage")) == 1
    del scorer
    gc.collect()
    assert copies(tmp_path / "stage") == []


def test_a_bundle_that_changed_since_it_was_opened_is_not_copied(
    tmp_path: Path, bundle: Bundle
) -> None:
    model = bundle.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleRefused, match=r"model\.onnx is damaged"):
        Stage(tmp_path / "stage").take(bundle)
    assert copies(tmp_path / "stage") == []

"""Registry loss, damage and restore on real bundles; a model that misbehaves as told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tierline import ModelFailed
from tierline.wire import ScoreReply, ScoreRequest
from tierline_drills import storage
from tierline_drills.errors import DrillError
from tierline_drills.node import Fault, FaultyScorer, read_fault
from tierline_serving.bundle import write_bundle
from tierline_serving.registry import Registry
from tierline_serving.scorer import ModelInfo
from tierline_serving.signing import Signer, Trust

TRUST = Trust(allow_unsigned=True)
MANIFEST: dict[str, Any] = {
    "format": 1,
    "model": "taste",
    "kind": "tensor",
    "tier": "edge",
    "created": "2026-11-21T00:00:00Z",
    "runtime": {"engine": "onnx", "entry": "model.onnx", "opset": 18, "precision": "float32"},
    "inputs": [{"name": "user", "dtype": "float32", "shape": [4], "role": "query"}],
    "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with one published bundle, and one backup of it."""
    found = Registry(tmp_path / "registry")
    publish(found, tmp_path, "1")
    storage.take_backup(found, tmp_path / "backups")
    return found


def publish(registry: Registry, folder: Path, version: str) -> None:
    files = {"model.onnx": version.encode() * 1000}
    bundle = write_bundle(files, {**MANIFEST, "version": version}, folder / "made")
    registry.publish(bundle.path, trust=TRUST)


def test_a_whole_registry_has_no_damage(registry: Registry) -> None:
    assert storage.damage(registry, TRUST) == ""


def test_one_flipped_bit_is_damage_and_is_named(registry: Registry) -> None:
    storage.flip_bit(storage.largest_file(registry, "taste"))
    assert "model.onnx" in storage.damage(registry, TRUST)


def test_a_truncated_file_and_a_lost_registry_are_damage(registry: Registry) -> None:
    storage.truncate(storage.largest_file(registry, "taste"))
    assert "damaged" in storage.damage(registry, TRUST)
    storage.lose(registry)
    assert "is gone" in storage.damage(registry, TRUST)


def test_the_newest_sound_backup_is_restored_and_one_publish_is_lost(
    registry: Registry, tmp_path: Path
) -> None:
    publish(registry, tmp_path, "2")
    storage.take_backup(registry, tmp_path / "backups")
    known = storage.published(registry)
    newest, _ = storage.backups(tmp_path / "backups")
    storage.flip_bit(newest)
    storage.lose(registry)
    taken, refused = storage.restore_newest(tmp_path / "backups", registry, TRUST)
    assert (taken.name, len(refused)) == ("registry-0000.tar", 1)
    assert storage.damage(registry, TRUST) == ""
    assert storage.publishes_lost(registry, known) == 1


def test_what_was_damaged_is_kept_aside(registry: Registry, tmp_path: Path) -> None:
    storage.flip_bit(storage.largest_file(registry, "taste"))
    storage.restore_newest(tmp_path / "backups", registry, TRUST)
    assert storage.damage(registry, TRUST) == ""
    assert (tmp_path / "registry-damaged-0" / "bundles").is_dir()


@pytest.mark.slow
def test_a_publish_on_a_full_disk_ends_with_a_sentence_and_changes_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    signer = Signer.generate()
    signer.save(tmp_path / "key.pem", tmp_path / "key.pub")
    files = {"model.onnx": b"x" * 100_000}
    bundle = write_bundle(files, {**MANIFEST, "version": "9"}, tmp_path / "made", signer)
    before = registry.read_channel("taste", "stable")
    said = storage.publish_when_full(registry, bundle.path, tmp_path / "key.pub")
    assert "the file system refused" in said
    assert "Traceback" not in said
    assert registry.read_channel("taste", "stable") == before
    assert storage.damage(registry, TRUST) == ""


def test_without_a_sound_backup_nothing_is_made_up(registry: Registry, tmp_path: Path) -> None:
    (only,) = storage.backups(tmp_path / "backups")
    storage.flip_bit(only)
    storage.lose(registry)
    with pytest.raises(DrillError, match="no backup in backups could be restored"):
        storage.restore_newest(tmp_path / "backups", registry, TRUST)


class Model:
    """A sound scorer of one bundle."""

    info = ModelInfo(name="shop", bundle="v2@1", kind="tensor", tier="edge", engine="", kernels="")

    def validate(self, request: ScoreRequest) -> None:
        pass

    def rows(self, request: ScoreRequest) -> int:
        return 1

    def prior(self) -> NDArray[np.float32] | None:
        return None

    def close(self) -> None:
        pass

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [ScoreReply("shop", "v2@1", np.array([2.0, 1.0], np.float32)) for _ in requests]


REQUEST = ScoreRequest(model="shop", query={})


def score(fault: Fault | None, **more: Any) -> ScoreReply:
    return FaultyScorer(Model(), lambda: fault, **more).score([REQUEST])[0]


def test_a_model_without_a_fault_answers_as_itself() -> None:
    assert score(None).scores.tolist() == [2.0, 1.0]


def test_a_fault_of_one_bundle_leaves_the_others_alone() -> None:
    assert np.isnan(score(Fault("nan", bundle="v2")).scores).any()
    assert score(Fault("nan", bundle="v1")).scores.tolist() == [2.0, 1.0]


def test_a_failing_model_fails_its_share_of_the_batches() -> None:
    with pytest.raises(ModelFailed):
        score(Fault("fail", share=0.3), dice=lambda: 0.2)
    assert score(Fault("fail", share=0.3), dice=lambda: 0.4).scores[0] == 2.0


def test_a_slow_model_takes_its_seconds() -> None:
    waited: list[float] = []
    score(Fault("slow", seconds=0.4), nap=waited.append)
    assert waited == [0.4]


def test_a_hanging_model_goes_on_when_it_is_mended() -> None:
    states = iter([Fault("hang")] * 4 + [None] * 9)
    waited: list[float] = []
    scorer = FaultyScorer(Model(), lambda: next(states), nap=waited.append)
    assert scorer.score([REQUEST])[0].scores[0] == 2.0
    assert len(waited) == 3


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kind": "earthquake"}'])
def test_a_fault_file_that_says_nothing_breaks_nothing(text: str) -> None:
    assert read_fault(text) is None


def test_a_fault_file_is_read_whole() -> None:
    text = json.dumps({"kind": "slow", "seconds": 0.5, "share": 0.5})
    assert read_fault(text) == Fault("slow", seconds=0.5, share=0.5)

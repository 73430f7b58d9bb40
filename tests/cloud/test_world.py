"""Two processes train what one trains; one of them writes; the device is the one that is there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import training_peer

from tierline import ConfigurationError
from tierline_cloud.data import Split
from tierline_cloud.models.sasrec import SASRec
from tierline_cloud.training import TrainReport, checkpoints
from tierline_cloud.training.lessons import NextItem, Taught
from tierline_cloud.training.world import SOLO, World, chosen_device, open_world


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainReport, TrainReport, Path]:
    """The report of one process, that of rank 0 of two, and the folder the two shared."""
    folder = tmp_path_factory.mktemp("world")
    alone = training_peer.run(SOLO, folder / "alone.safetensors")
    torchrun = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
        "LOCAL_RANK": "0",
    }  # fmt: skip
    peer = subprocess.Popen(
        [sys.executable, training_peer.__file__, str(folder)],
        env={**os.environ, **torchrun, "RANK": "1"},
    )
    patch = pytest.MonkeyPatch()
    try:
        for name, value in torchrun.items():
            patch.setenv(name, value)
        with open_world("cpu", {**torchrun, "RANK": "0"}) as world:
            ours = training_peer.run(world, folder / "checkpoint.safetensors")
        assert peer.wait(timeout=60) == 0
    finally:
        patch.undo()
        peer.kill()
        peer.wait()
    return alone, ours, folder


def test_two_processes_and_one_have_the_same_loss_curve(
    both: tuple[TrainReport, TrainReport, Path],
) -> None:
    alone, ours, _ = both
    for one, two in zip(alone.history, ours.history, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["ndcg@10"] == pytest.approx(one["ndcg@10"], abs=5e-3)


def test_both_ranks_tell_the_same_story(both: tuple[TrainReport, TrainReport, Path]) -> None:
    _, ours, folder = both
    peer = json.loads((folder / "peer.json").read_text())
    for one, two in zip(ours.history, peer, strict=True):
        assert (one["loss"], one["ndcg@10"]) == (two["loss"], two["ndcg@10"])


def test_one_process_goes_on_where_two_stopped(
    both: tuple[TrainReport, TrainReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ours, folder = both
    resumed = training_peer.run(SOLO, folder / "checkpoint.safetensors")
    assert resumed == ours  # it was done: nothing is trained again


def test_only_rank_0_writes_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(World):
        """Rank 1 whose companions agree with whatever it says."""

        def share(self, values: object) -> list[float]:
            return list(values)  # type: ignore[call-overload, no-any-return]

        total = share

        def averaging(self, module: torch.nn.Module) -> torch.nn.Module:
            return module

    training_peer.run(
        Second(rank=1, size=2), tmp_path / "second", replace(training_peer.TRAINING, epochs=1)
    )
    assert not (tmp_path / "second").exists()
    training_peer.run(SOLO, tmp_path / "first", replace(training_peer.TRAINING, epochs=1))
    assert (tmp_path / "first").exists()


def test_a_share_without_examples_has_gradients_of_zero(shop_split: Split) -> None:
    model = SASRec(replace(training_peer.SHAPE, n_items=shop_split.train.n_items))
    lesson = NextItem()
    batch = next(lesson.batches(8, training_peer.TRAINING, shop_split.train, 0))
    empty = batch.part(batch.inputs.shape[0], 1)
    taught = Taught(model, lesson, precision=torch.float32)
    loss = taught(empty)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_half_precision_trains_the_encoder_and_leaves_weights_and_loss_whole(
    shop_split: Split,
) -> None:
    torch.manual_seed(0)
    model = SASRec(replace(training_peer.SHAPE, n_items=shop_split.train.n_items))
    lesson = NextItem()
    batch = next(lesson.batches(8, training_peer.TRAINING, shop_split.train, 0))
    half = Taught(model, lesson, precision=torch.bfloat16)(batch)
    whole = Taught(model, lesson, precision=torch.float32)(batch)
    assert half.dtype == torch.float32
    assert half.item() != whole.item()
    assert half.item() == pytest.approx(whole.item(), rel=0.02)
    half.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_half_precision_is_refused_where_it_does_not_help(tmp_path: Path) -> None:
    config = replace(training_peer.TRAINING, precision="bfloat16")
    with pytest.raises(ConfigurationError, match="needs a CUDA device"):
        training_peer.run(SOLO, tmp_path / "checkpoint", config)


def test_the_precision_is_part_of_a_runs_key_and_float32_goes_without_saying() -> None:
    config = training_peer.TRAINING
    assert "precision" not in config.to_json()
    assert replace(config, precision="bfloat16").to_json()["precision"] == "bfloat16"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="needs a GPU of its own"):
        chosen_device("cuda", local_rank=1)
    assert chosen_device("cpu", local_rank=1).type == "cpu"


def test_without_torchrun_a_process_is_a_world_by_itself() -> None:
    with open_world("cpu", {}) as world:
        assert (world.size, world.is_writer) == (1, True)
        assert world.share([1.0, 2.0]) == world.total([1.0, 2.0]) == [1.0, 2.0]


def test_a_damaged_checkpoint_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"damaged")
    with pytest.raises(checkpoints.CheckpointError, match="is damaged"):
        training_peer.run(SOLO, tmp_path / "checkpoint")


@pytest.mark.nightly
def test_torchrun_trains_and_packs_with_the_command_of_one_process(tmp_path: Path) -> None:
    command = ["train", "--synthetic", "--out", str(tmp_path / "out"), "--users", "240", "--items",
               "200", "--epochs", "1", "--recipe", "quick", "--threads", "1"]  # fmt: skip
    tierline = Path(sys.executable).with_name("tierline")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node=2", "--no-python"]  # fmt: skip
    done = subprocess.run(
        [*launcher, str(tierline), *command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("edge bundle:") == 1
    assert len(list((tmp_path / "out" / "bundles").iterdir())) == 2

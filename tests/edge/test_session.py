"""The ONNX session: the provider asked for or none, threads as told, refusals in sentences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_bundles

from tierline import BundleRefused, ConfigurationError, ModelFailed
from tierline_edge.session import Session
from tierline_serving.cores import choose_threads

needs_cpu_only_build = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime has CUDA",
)


def test_the_session_runs_on_the_provider_asked_for() -> None:
    session = Session(tiny_bundles.ranker(), threads=2)
    assert (session.provider, session.threads) == ("CPUExecutionProvider", 2)
    assert session.inputs == ("user", "item")


def test_sessions_share_one_bounded_arena_that_keeps_no_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def recorded(model: bytes, options: Any, **rest: Any) -> Any:
        asked.append(options)
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    sessions = [Session(tiny_bundles.ranker(), threads=1) for _ in range(2)]
    feed = {name: np.ones((3, tiny_bundles.FEATURES), np.float32) for name in ("user", "item")}
    for session, options in zip(sessions, asked, strict=True):
        for entry in ("use_env_allocators", "use_device_allocator_for_initializers"):
            assert options.get_session_config_entry(f"session.{entry}") == "1"
        assert session.run(["scores"], feed)[0].tolist() == [tiny_bundles.FEATURES] * 3


@needs_cpu_only_build
def test_a_provider_that_is_not_there_is_refused_and_not_replaced() -> None:
    with pytest.raises(ConfigurationError, match="has no CUDAExecutionProvider"):
        Session(tiny_bundles.ranker(), provider="cuda")


def test_a_provider_that_turns_out_to_be_another_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    made: dict[str, Any] = {}
    real = onnxruntime.InferenceSession

    def fallen_back(model: bytes, options: Any, **rest: Any) -> Any:
        made.update(rest)
        cpu = onnxruntime.SessionOptions()
        cpu.intra_op_num_threads = 1
        return real(model, cpu, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    with pytest.raises(ConfigurationError, match="asked for CUDAExecutionProvider, got"):
        Session(tiny_bundles.ranker(), provider="cuda")
    assert made == {"providers": ["CUDAExecutionProvider"], "enable_fallback": 0}


def test_the_callers_arithmetic_is_left_as_it_was() -> None:
    smallest = np.float32(1e-45)  # zero to a thread that flushes subnormal numbers
    feed = {"user": np.zeros((2, 4), np.float32), "item": np.zeros((2, 4), np.float32)}
    Session(tiny_bundles.ranker(), threads=1).run(["scores"], feed)
    assert smallest * np.float32(1.0) > 0.0


def test_an_unknown_provider_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="must be cpu or cuda, got 'tpu'"):
        Session(tiny_bundles.ranker(), provider="tpu")


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(BundleRefused, match="cannot load the model"):
        Session(b"no model at all")


def test_a_failing_run_is_the_models_failure() -> None:
    session = Session(tiny_bundles.ranker(), threads=1)
    feed = {"user": np.zeros((2, 4), np.float32), "item": np.zeros((2, 5), np.float32)}
    with pytest.raises(ModelFailed, match="ONNX Runtime failed"):
        session.run(["scores"], feed)


def test_threads_asked_for_are_taken() -> None:
    assert choose_threads(7) == 7


@pytest.mark.parametrize("asked", [0, -1])
def test_threads_below_one_are_refused(asked: int) -> None:
    with pytest.raises(ConfigurationError, match="threads: must be at least 1"):
        choose_threads(asked)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("?", 8)],
)
def test_threads_follow_affinity_and_the_cgroups_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert choose_threads(None, limit=tmp_path / "cpu.max") == cores


def test_without_a_cgroup_affinity_alone_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert choose_threads(None, limit=tmp_path / "absent") == 3

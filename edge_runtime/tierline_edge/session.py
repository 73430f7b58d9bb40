"""Opens an ONNX Runtime session with everything explicit: threads, spinning, memory, provider."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tierline import BundleRefused, ConfigurationError, ModelFailed
from tierline_serving.cores import choose_threads
from tierline_serving.memory import available

log = logging.getLogger("tierline.edge")

# An address in device memory, and the shape of what lies there.
Place = tuple[int, tuple[int, ...]]
LEAST_ARENA = 1 << 30  # bytes; more where half of the free memory is more
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """One loaded graph on the one provider that was asked for."""

    def __init__(
        self, model: bytes | Path, *, provider: str = "cpu", threads: int | None = None
    ) -> None:
        """``provider`` is "cpu" or "cuda", never both: nothing falls back. ``threads`` None takes
        what affinity and cgroup allow. Raises ConfigurationError or BundleRefused."""
        if provider not in PROVIDERS:
            raise ConfigurationError(f"must be cpu or cuda, got {provider!r}", key="provider")
        self.provider = PROVIDERS[provider]
        self.threads = choose_threads(threads)
        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise ConfigurationError(
                f"this onnxruntime has no {self.provider} (it has {', '.join(available)}); "
                "for CUDA install tierline[edge-gpu] instead of tierline[edge]",
                key="provider",
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                _options(self.threads, provider),
                providers=[self.provider],
                enable_fallback=0,  # by default a provider that fails to start becomes the CPU
            )
        except Exception as error:  # onnxruntime's errors share no public base
            raise BundleRefused(f"ONNX Runtime cannot load the model: {error}") from error
        self._session.disable_fallback()
        if self._session.get_providers()[0] != self.provider:
            given = self._session.get_providers()
            raise ConfigurationError(f"asked for {self.provider}, got {given}", key="provider")
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def run(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[np.float32]]:
        """The named outputs. Raises ModelFailed with ONNX Runtime's reason."""
        try:
            answers: list[NDArray[np.float32]] = self._session.run(outputs, feed)
        except Exception as error:  # onnxruntime's errors share no public base
            raise ModelFailed(f"ONNX Runtime failed: {error}") from error
        return answers

    def share_stream(self, handle: int) -> None:
        """Work on somebody else's CUDA stream, so that nothing has to wait in between."""
        self._session.set_providers([self.provider], [{"user_compute_stream": str(handle)}])

    def run_bound(self, inputs: Mapping[str, Place], outputs: Mapping[str, Place]) -> None:
        """Run from device memory to device memory, float32 throughout, without waiting for the
        device: whoever reads the outputs does so on the same stream. Raises ModelFailed."""
        try:
            binding = self._session.io_binding()
            for name, (address, shape) in inputs.items():
                binding.bind_input(name, "cuda", 0, np.float32, list(shape), address)
            for name, (address, shape) in outputs.items():
                binding.bind_output(name, "cuda", 0, np.float32, list(shape), address)
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # onnxruntime's errors share no public base
            raise ModelFailed(f"ONNX Runtime failed: {error}") from error


@cache
def _share_arena() -> None:
    """One bounded arena for the activations of every session of this process: two bundles side by
    side share it, and it grows by what is asked for and not to the next power of two."""
    free = available()
    most = LEAST_ARENA if free is None else max(LEAST_ARENA, free // 2)
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    settings = onnxruntime.OrtArenaCfg({"max_mem": most, "arena_extend_strategy": 1})
    try:
        onnxruntime.create_and_register_allocator(place, settings)
    except Exception as error:  # onnxruntime's errors share no public base
        # An application that embeds us has registered its own: then that one is shared.
        log.info("the process has an arena of its own: %s", error)


def _options(threads: int, provider: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # explicit: 0 would also pin threads to cores
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning wins microseconds on an idle machine and costs a core on a shared one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == "cpu":
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights stay as long as their session and would only split the arena up.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Not session.set_denormal_as_zero: it also changes the arithmetic of the thread that calls,
    # which is the application's own when the scorer is embedded.
    if provider == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options

"""Scores kind ``tensor`` with a module the bundle brings: named tensors in, one score a row out."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from tierline import BundleRefused, ModelFailed
from tierline.wire import ScoreReply, ScoreRequest
from tierline_cloud.serve.info import describe
from tierline_serving.bundle import Bundle
from tierline_serving.requests import TensorRequests


class TensorScorer:
    """One bring-your-own module; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle, allowed: Collection[str]) -> None:
        """``allowed`` names the packages whose code may be imported. Raises BundleRefused."""
        self._model = _build(bundle, allowed).eval()
        self._requests = TensorRequests(bundle.manifest)
        self._bundle = bundle
        self.info = describe(bundle, kernels="none")

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        return self._requests.rows(request)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        # One after another: what rows of other requests would do to a sum's order, in code that
        # is not ours, nobody can promise away.
        return [
            ScoreReply(
                model=self.info.name, bundle=self.info.bundle, scores=self._score_one(request)
            )
            for request in requests
        ]

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's prior, when it brings one."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the weights go with this object."""

    def _score_one(self, request: ScoreRequest) -> NDArray[np.float32]:
        tensors = {
            # A copy where the frame's buffer is read-only: torch has no read-only tensors.
            name: torch.from_numpy(array if array.flags.writeable else array.copy())
            for name, array in self._requests.pack([request]).items()
        }
        rows = self._requests.rows(request)
        try:
            with torch.inference_mode():
                scores = self._model(**tensors)
        except Exception as error:  # code that is not ours may raise anything
            raise ModelFailed(
                f"the torch module failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(scores, torch.Tensor) or scores.shape != (rows,):
            got = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ModelFailed(f"the torch module must answer a tensor [{rows}], got {got}")
        single: NDArray[np.float32] = scores.to(torch.float32).numpy()
        if not np.isfinite(single).all():
            raise ModelFailed("the torch module answered scores that are not finite")
        return single


def _build(bundle: Bundle, allowed: Collection[str]) -> nn.Module:
    """The bundle's own module. Its code is imported only when its package is allowed."""
    runtime = bundle.manifest.runtime
    if runtime.factory is None:
        raise BundleRefused(f"bundle {bundle.id}: a torch bundle of kind tensor names a factory")
    module_name, _, function = runtime.factory.partition(":")
    package = module_name.partition(".")[0]
    if package not in allowed:
        raise BundleRefused(
            f"bundle {bundle.id} wants to import {module_name}; if you trust that code, say "
            f"--allow-module {package}"
        )
    try:
        module = getattr(importlib.import_module(module_name), function)(**(runtime.config or {}))
    except Exception as error:  # code that is not ours may raise anything
        raise BundleRefused(
            f"bundle {bundle.id}: {runtime.factory}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise BundleRefused(f"bundle {bundle.id}: {runtime.factory} made no torch module")
    if runtime.entry is not None:
        try:
            module.load_state_dict(load_safetensors(bundle.model_bytes()), strict=True)
        except (RuntimeError, SafetensorError) as error:
            raise BundleRefused(f"bundle {bundle.id}: the weights do not fit: {error}") from error
    return module

"""Scores a bundle's full torch model: built-in SASRec, or a module the bundle brings."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from torch import nn

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_cloud.models.sasrec import SASRec, SASRecConfig
from tierline_kernels import dot_topk
from tierline_serving.bundle import Bundle
from tierline_serving.golden import check_golden
from tierline_serving.requests import HISTORY, SequenceRequests, TensorRequests
from tierline_serving.scorer import ModelInfo


class SequenceTorchScorer:
    """A full SASRec; the contract is ``tierline_serving.Scorer``."""

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.manifest.sequence
        runtime = bundle.manifest.runtime
        if spec is None or runtime.architecture != "sasrec":
            raise BundleRefused(
                f"bundle {bundle.id}: architecture {runtime.architecture!r} is unknown; "
                "this version serves 'sasrec'"
            )
        try:
            self._model = SASRec(SASRecConfig(**_numbers(runtime.config or {})))
            self._model.load_state_dict(load_safetensors(bundle.model_bytes()), strict=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BundleRefused(f"bundle {bundle.id}: the model does not load: {error}") from error
        self._model.eval()
        self._table = self._model.table.detach().numpy()
        self._requests = SequenceRequests(spec)
        self._bundle = bundle
        self.info = _describe(bundle)

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        """Candidates, or 1 for the whole catalogue: encoding dominates both."""
        return 1 if request.candidates is None else len(request.candidates[CANDIDATE_IDS])

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        with torch.inference_mode():
            hidden = self._model.hidden(torch.from_numpy(self._requests.pad(requests))).numpy()
        if not np.isfinite(hidden).all():
            raise ModelFailed("the encoder answered numbers that are not finite")
        replies = []
        for row, request in enumerate(requests):
            items = None
            if request.candidates is None:
                scores, items = self._recommend(request, hidden[row : row + 1])
            else:
                wanted = request.candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
                scores = self._table[wanted] @ hidden[row]
            replies.append(
                ScoreReply(
                    model=self.info.name, bundle=self.info.bundle, scores=scores, items=items
                )
            )
        return replies

    def _recommend(
        self, request: ScoreRequest, hidden: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        seen = np.append(request.query[HISTORY].astype(np.int64), 0)
        offsets = np.array([0, len(seen)], np.int64)
        found = dot_topk(hidden, self._table, request.k or 1, exclude=(seen, offsets))
        return found.values[0], found.indices[0]

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's popularity prior, float32 [n_items + 1]."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the weights go with this object."""


class TensorTorchScorer:
    """A module the bundle brings: named tensors in, one score a row out."""

    def __init__(self, bundle: Bundle, allowed: Collection[str]) -> None:
        self._model = _build(bundle, allowed).eval()
        self._requests = TensorRequests(bundle.manifest)
        self._bundle = bundle
        self.info = _describe(bundle)

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        return self._requests.rows(request)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        packed = self._requests.pack(requests)
        tensors = {
            # A copy where the frame's buffer is read-only: torch has no read-only tensors.
            name: torch.from_numpy(array if array.flags.writeable else array.copy())
            for name, array in packed.items()
        }
        try:
            with torch.inference_mode():
                scores = self._model(**tensors).numpy()
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelFailed(f"the torch module failed: {error}") from error
        counts = [self._requests.rows(request) for request in requests]
        if scores.shape != (sum(counts),) or not np.isfinite(scores).all():
            raise ModelFailed(f"expected {sum(counts)} finite scores, got shape {scores.shape}")
        parts = np.split(scores.astype(np.float32, copy=False), np.cumsum(counts)[:-1])
        return [
            ScoreReply(model=self.info.name, bundle=self.info.bundle, scores=part) for part in parts
        ]

    def prior(self) -> NDArray[np.float32] | None:
        """The bundle's prior, when it brings one."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the weights go with this object."""


def load_scorer(
    bundle: Bundle, *, threads: int | None = None, allowed: Collection[str] = ()
) -> SequenceTorchScorer | TensorTorchScorer:
    """Load a bundle and ask it its golden requests. ``allowed`` names the packages whose code a
    bundle may bring. Raises BundleRefused."""
    if bundle.manifest.runtime.engine != "torch":
        raise BundleRefused(
            f"bundle {bundle.id} runs on {bundle.manifest.runtime.engine}; this serves torch "
            "bundles, `tierline edge serve` runs ONNX ones"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    scorer: SequenceTorchScorer | TensorTorchScorer
    if bundle.manifest.kind == "sequence":
        scorer = SequenceTorchScorer(bundle)
    else:
        scorer = TensorTorchScorer(bundle, allowed)
    check_golden(bundle, scorer)
    return scorer


def _build(bundle: Bundle, allowed: Collection[str]) -> nn.Module:
    """The bundle's own module. Its code is imported only when its package is allowed."""
    runtime = bundle.manifest.runtime
    if runtime.factory is None:
        raise BundleRefused(f"bundle {bundle.id}: a torch bundle of kind tensor names a factory")
    module_name, _, function = runtime.factory.partition(":")
    if module_name.split(".")[0] not in allowed:
        raise BundleRefused(
            f"bundle {bundle.id} wants to import {module_name}; if you trust that code, say "
            f"--allow-module {module_name.split('.')[0]}"
        )
    try:
        module = getattr(importlib.import_module(module_name), function)(
            **dict(runtime.config or {})
        )
        if runtime.entry is not None:
            module.load_state_dict(load_safetensors(bundle.model_bytes()), strict=True)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise BundleRefused(f"bundle {bundle.id}: {runtime.factory}: {error}") from error
    if not isinstance(module, nn.Module):
        raise BundleRefused(f"bundle {bundle.id}: {runtime.factory} made no torch module")
    return module


def _numbers(config: Any) -> dict[str, Any]:  # Any: SASRecConfig checks the values
    return dict(config)


def _describe(bundle: Bundle) -> ModelInfo:
    manifest = bundle.manifest
    return ModelInfo(
        name=manifest.model,
        bundle=bundle.id,
        kind=manifest.kind,
        tier=manifest.tier,
        engine="torch cpu",
        kernels="cpu" if manifest.kind == "sequence" else "none",
        details={
            "architecture": manifest.runtime.architecture or manifest.runtime.factory,
            "threads": torch.get_num_threads(),
            "signed_by": bundle.signed_by,
        },
    )

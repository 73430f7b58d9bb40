"""Which tensors a model of each kind takes and gives, and how they become score requests. Pure.

Kind ``tensor``: the manifest's inputs under their own names. One of role ``candidate`` keeps its
axis of rows, one of role ``query`` comes without it. Kind ``sequence``: ``history`` INT64 [m],
oldest first, and either ``id`` INT64 [n] (candidates) or ``k`` INT64 [1] (the whole catalogue).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_serving.oip.datatypes import name_of
from tierline_serving.oip.requests import InferRequest, InputSpec
from tierline_serving.requests import HISTORY
from tierline_serving.scorer import ModelInfo

K: Final = "k"
SCORES: Final = "scores"
ITEMS: Final = "items"
UNCERTAINTY: Final = "uncertainty"

Array = NDArray[np.generic]

_HISTORY: Final = InputSpec(name=HISTORY, datatype="INT64", shape=(-1,))
_IDS: Final = InputSpec(name=CANDIDATE_IDS, datatype="INT64", shape=(-1,), optional=True)
_K: Final = InputSpec(name=K, datatype="INT64", shape=(1,), optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """A tensor a model gives; ``optional``: only some requests get it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The tensors of one model."""

    kind: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[OutputSpec, ...]
    query: frozenset[str] = frozenset()  # kind tensor: the inputs of role query

    @classmethod
    def of(cls, info: ModelInfo) -> Signature:
        """A model's signature; one of a kind that speaks no tensors raises BadRequest."""
        scores = OutputSpec(name=SCORES, datatype="FP32", shape=(-1,))
        doubt = OutputSpec(name=UNCERTAINTY, datatype="FP32", shape=(1,), optional=True)
        if info.kind == "sequence":
            items = OutputSpec(name=ITEMS, datatype="INT64", shape=(-1,), optional=True)
            inputs = {spec.name: spec for spec in (_HISTORY, _IDS, _K)}
            return cls(kind=info.kind, inputs=inputs, outputs=(scores, items, doubt))
        if info.kind == "tensor":
            specs = [_tensor_input(given) for given in info.inputs]
            return cls(
                kind=info.kind,
                inputs={spec.name: spec for spec in specs},
                outputs=(scores, doubt),
                query=frozenset(str(g["name"]) for g in info.inputs if g["role"] == "query"),
            )
        raise BadRequest(f"model {info.name!r} is of kind {info.kind}, which takes no tensors")

    def score_request(self, model: str, version: str | None, request: InferRequest) -> ScoreRequest:
        """What the model is asked. Raises BadRequest when the inputs contradict each other."""
        if self.kind == "tensor":
            named = request.inputs.items()
            query = {name: array for name, array in named if name in self.query}
            candidates = {name: array for name, array in named if name not in self.query}
            return ScoreRequest(model=model, query=query, candidates=candidates, version=version)
        ids, k = request.inputs.get(CANDIDATE_IDS), request.inputs.get(K)
        if (ids is None) == (k is None):
            raise BadRequest("give either id (the candidates) or k (the best of the catalogue)")
        query = {HISTORY: request.inputs[HISTORY]}
        if ids is not None:
            candidates = {CANDIDATE_IDS: ids}
            return ScoreRequest(model=model, query=query, candidates=candidates, version=version)
        assert k is not None
        return ScoreRequest(model=model, query=query, k=int(k.item()), version=version)

    def answered(self, reply: ScoreReply) -> dict[str, tuple[str, Array]]:
        """The outputs a reply holds: name to datatype and array."""
        outputs: dict[str, tuple[str, Array]] = {}
        if reply.items is None:
            outputs[SCORES] = ("FP32", reply.scores)
        else:
            there = reply.items >= 0  # fewer than k items were left: an answer has no holes here
            outputs[SCORES] = ("FP32", reply.scores[there])
            outputs[ITEMS] = ("INT64", reply.items[there])
        if reply.uncertainty is not None:
            outputs[UNCERTAINTY] = ("FP32", np.array([reply.uncertainty], np.float32))
        return outputs

    def check_outputs(self, request: InferRequest) -> None:
        """Raise BadRequest for a requested output the model does not have."""
        known = [spec.name for spec in self.outputs]
        for wanted in request.outputs or ():
            if wanted.name not in known:
                raise BadRequest(
                    f"the model has no output {wanted.name[:80]!r}; it gives {', '.join(known)}"
                )


def _tensor_input(given: Mapping[str, object]) -> InputSpec:
    shape = given["shape"]
    assert isinstance(shape, list | tuple)
    axes = tuple(shape)
    if given["role"] == "query" and axes[:1] == ("rows",):
        axes = axes[1:]  # a query comes once and is repeated for every row
    sizes = tuple(axis if isinstance(axis, int) else -1 for axis in axes)
    return InputSpec(name=str(given["name"]), datatype=name_of(str(given["dtype"])), shape=sizes)

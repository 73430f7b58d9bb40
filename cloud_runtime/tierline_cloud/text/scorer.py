"""Scores kind ``text``: a query's text against a catalogue, or against documents it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from tierline import BundleRefused, ModelFailed
from tierline.wire import CANDIDATE_IDS, ScoreReply, ScoreRequest
from tierline_cloud.serve.info import describe
from tierline_cloud.text.encoder import Encoder, EncoderConfig
from tierline_cloud.text.encoding import Encoded, Role, TextEncoder, TextSettings, read_tokenizer
from tierline_cloud.text.index import TextIndex, sizes
from tierline_cloud.text.interaction import late_interaction
from tierline_kernels import RowwiseInt8, quantize_rows
from tierline_serving.bundle import Bundle
from tierline_serving.text_requests import TEXT, TextRequests, read_text, read_texts
from tierline_serving.text_spec import TextSpec

ARCHITECTURE = "text-encoder"

Floats = NDArray[np.float32]


class TextScorer:
    """One text bundle; the contract is ``tierline_serving.Scorer``. A query is encoded alone, and
    scored item by item, so its answer knows no neighbours."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleRefused when the parts do not fit together."""
        spec = bundle.manifest.text
        if spec is None or bundle.manifest.runtime.architecture != ARCHITECTURE:
            raise BundleRefused(
                f"bundle {bundle.id}: architecture {bundle.manifest.runtime.architecture!r} is "
                f"unknown; this version serves text with {ARCHITECTURE}"
            )
        self._encoder = _encoder(bundle, spec)
        self._index = _index(bundle, spec)
        self._rescored = spec.rescored
        self._requests = TextRequests(spec)
        self._bundle = bundle
        info = describe(bundle, kernels="cpu")
        memory = sizes(self._index, self._encoder.bytes)
        more = {"items": spec.items, "rescored": spec.rescored, "bytes": memory}
        self.info = replace(info, details={**info.details, **more})
        self.score(
            [ScoreRequest(model=self.info.name, query={TEXT: np.array([97], np.uint8)}, k=1)]
        )

    def validate(self, request: ScoreRequest) -> None:
        self._requests.validate(request)

    def rows(self, request: ScoreRequest) -> int:
        return self._requests.rows(request)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return [self._answer(request) for request in requests]

    def prior(self) -> NDArray[np.float32] | None:
        """A search without a query has no order."""
        return self._bundle.prior()

    def close(self) -> None:
        """Nothing to give back: the weights go with this object."""

    def _answer(self, request: ScoreRequest) -> ScoreReply:
        query = self._encoder.encode(read_text(request.query[TEXT]), Role.QUERY)
        if not (np.isfinite(query.vector).all() and np.isfinite(query.tokens).all()):
            raise ModelFailed("the encoder answered numbers that are not finite")
        items: NDArray[np.int64] | None = None
        if request.candidates is None:
            items, scores = self._index.search(query, request.k or 1, self._rescored)
        elif TEXT in request.candidates:
            scores = self._documents(query, read_texts(request.candidates[TEXT]))
        else:
            wanted = request.candidates[CANDIDATE_IDS].astype(np.int64, copy=False)
            scores = self._index.score(query.tokens, wanted)
        return ScoreReply(model=self.info.name, bundle=self.info.bundle, scores=scores, items=items)

    def _documents(self, query: Encoded, texts: list[str]) -> Floats:
        """Each document's score: rounded to int8 as an item's tokens are, so that an item and a
        document of the same text score alike."""
        alone = np.array([0], np.int64)
        scores = np.empty(len(texts), np.float32)
        for place, text in enumerate(texts):
            tokens = self._encoder.encode(text, Role.DOCUMENT).tokens
            if not np.isfinite(tokens).all():
                raise ModelFailed("the encoder answered numbers that are not finite")
            rows = quantize_rows(tokens)
            offsets = np.array([0, len(tokens)], np.int64)
            scores[place] = late_interaction(query.tokens, rows, offsets, alone)[0]
        return scores


def _encoder(bundle: Bundle, spec: TextSpec) -> TextEncoder:
    said = dict(bundle.manifest.runtime.config or {})
    try:
        shape, how = said["encoder"], said["settings"]
        if len(said) != 2 or not isinstance(shape, dict) or not isinstance(how, dict):
            raise ValueError("runtime.config holds the objects encoder and settings, only")
        config, settings = EncoderConfig(**shape), TextSettings(**how)
        network = Encoder(config)
        network.load_state_dict(load_safetensors(bundle.model_bytes()), strict=True)
        document = bundle.read(spec.tokenizer).decode("utf-8")
        tokenizer = read_tokenizer(document, config.vocabulary)
        made = TextEncoder(network.eval().requires_grad_(False), tokenizer, settings)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleRefused(f"bundle {bundle.id}: the encoder does not load: {error}") from error
    if made.dim != spec.dim:
        raise BundleRefused(f"bundle {bundle.id}: the encoder is {made.dim} wide, not {spec.dim}")
    return made


def _index(bundle: Bundle, spec: TextSpec) -> TextIndex:
    vectors, tokens = (_table(bundle, name) for name in (spec.vectors, spec.tokens))
    try:
        offsets = np.lib.format.open_memmap(bundle.file(spec.offsets), mode="r")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise BundleRefused(f"bundle {bundle.id}: {spec.offsets} is no npy file") from error
    if vectors.shape != (spec.items + 1, spec.dim) or tokens.shape[1] != spec.dim:
        raise BundleRefused(
            f"bundle {bundle.id}: tables are {vectors.shape} and {tokens.shape}; text says "
            f"{spec.items} items of {spec.dim} numbers"
        )
    if offsets.dtype != np.int64 or offsets.shape != (spec.items + 2,):
        raise BundleRefused(f"bundle {bundle.id}: {spec.offsets} must be int64 [items + 2]")
    found = np.array(offsets)
    steps = np.diff(found)
    if found[0] != 0 or steps[0] != 0 or (steps[1:] < 1).any() or found[-1] != tokens.shape[0]:
        raise BundleRefused(
            f"bundle {bundle.id}: {spec.offsets} must give every item at least one of the "
            f"{tokens.shape[0]} token rows, in order"
        )
    return TextIndex(vectors=vectors, tokens=tokens, offsets=found)


def _table(bundle: Bundle, name: str) -> RowwiseInt8:
    table = bundle.table(name)
    if table.codes is None or table.scales is None or table.biases is not None:
        raise BundleRefused(f"bundle {bundle.id}: the table {name} must be symmetric int8")
    return RowwiseInt8(table.codes, table.scales)

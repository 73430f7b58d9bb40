"""Which tensors of a Hugging Face checkpoint become which of the encoder's, family by family. Pure.

Token types are always 0 here, so their row is added to the positions once; RoBERTa's first
positions, which its padding would take, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from tierline_cloud.text.encoder import EncoderConfig

Tensors = Mapping[str, torch.Tensor]

_BERT: Final = {
    "query": "encoder.layer.{}.attention.self.query",
    "key": "encoder.layer.{}.attention.self.key",
    "value": "encoder.layer.{}.attention.self.value",
    "mix": "encoder.layer.{}.attention.output.dense",
    "mix_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "up": "encoder.layer.{}.intermediate.dense",
    "down": "encoder.layer.{}.output.dense",
    "norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT: Final = {
    "query": "transformer.layer.{}.attention.q_lin",
    "key": "transformer.layer.{}.attention.k_lin",
    "value": "transformer.layer.{}.attention.v_lin",
    "mix": "transformer.layer.{}.attention.out_lin",
    "mix_norm": "transformer.layer.{}.sa_layer_norm",
    "up": "transformer.layer.{}.ffn.lin1",
    "down": "transformer.layer.{}.ffn.lin2",
    "norm": "transformer.layer.{}.output_layer_norm",
}
_LAYERS: Final = {
    "bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "distilbert": _DISTILBERT,
}  # fmt: skip
FAMILIES: Final = tuple(_LAYERS)
_PREFIXES: Final = {"xlm-roberta": "roberta."}


def encoder_config(config: Mapping[str, object]) -> EncoderConfig:
    """The encoder a `config.json` describes. Raises ValueError with a sentence."""
    family = family_of(config)
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"position_embedding_type is {config['position_embedding_type']!r}; only absolute "
            "positions are read"
        )
    distilled = family == "distilbert"
    whole = {
        "vocabulary": "vocab_size",
        "dim": "dim" if distilled else "hidden_size",
        "layers": "n_layers" if distilled else "num_hidden_layers",
        "heads": "n_heads" if distilled else "num_attention_heads",
        "hidden": "hidden_dim" if distilled else "intermediate_size",
        "positions": "max_position_embeddings",
    }
    sizes = {ours: _whole(config, theirs) for ours, theirs in whole.items()}
    sizes["positions"] -= _skipped(config)
    activation = config.get("activation" if distilled else "hidden_act", "gelu")
    epsilon = 1e-12 if distilled else config.get("layer_norm_eps", 1e-12)
    if not isinstance(activation, str) or not isinstance(epsilon, float):
        raise ValueError(f"hidden_act {activation!r} and layer_norm_eps {epsilon!r} make no sense")
    return EncoderConfig(**sizes, activation=activation, epsilon=epsilon)


def family_of(config: Mapping[str, object]) -> str:
    """The family `config.json` names. Raises ValueError for one that is not read here."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _LAYERS:
        raise ValueError(f"model_type is {family!r}; read are {', '.join(FAMILIES)}")
    return family


def encoder_tensors(config: Mapping[str, object], tensors: Tensors) -> dict[str, torch.Tensor]:
    """The encoder's state, float32, from a checkpoint's tensors; heads and poolers are left out.

    Raises ValueError naming a tensor that is missing or of another shape than the config says.
    """
    family, shape = family_of(config), encoder_config(config)
    source = _Source(tensors, _PREFIXES.get(family, f"{family}."))
    dim, skipped = shape.dim, _skipped(config)
    words = source.take("embeddings.word_embeddings.weight", (shape.vocabulary, dim))
    rows = shape.positions + skipped
    positions = source.take("embeddings.position_embeddings.weight", (rows, dim))[skipped:]
    if family != "distilbert":
        positions = (
            positions + source.take("embeddings.token_type_embeddings.weight", (None, dim))[0]
        )
    state = {"words.weight": words, "positions": positions.contiguous()}
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = source.take(f"embeddings.LayerNorm.{part}", (dim,))
    widths: dict[str, tuple[int, ...]] = {"up": (shape.hidden, dim), "down": (dim, shape.hidden)}
    for number in range(shape.layers):
        for ours, theirs in _LAYERS[family].items():
            matrix = (dim,) if ours.endswith("norm") else widths.get(ours, (dim, dim))
            name = theirs.format(number)
            state[f"layers.{number}.{ours}.weight"] = source.take(f"{name}.weight", matrix)
            state[f"layers.{number}.{ours}.bias"] = source.take(f"{name}.bias", matrix[:1])
    return state


class _Source:
    """A checkpoint's tensors, with or without the family's prefix."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix

    def take(self, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors.get(self._prefix + name)
        if found is None:
            raise ValueError(f"the tensor {name} is missing")
        fits = found.ndim == len(shape) and all(
            want is None or got == want for got, want in zip(found.shape, shape, strict=True)
        )
        if not fits or not found.is_floating_point():
            raise ValueError(
                f"the tensor {name} is {found.dtype} {list(found.shape)}; by the config it is "
                f"float {list(shape)}"
            )
        return found.to(torch.float32).contiguous()


def _skipped(config: Mapping[str, object]) -> int:
    """RoBERTa counts positions from one behind its padding id on."""
    if config.get("model_type") not in ("roberta", "xlm-roberta"):
        return 0
    return _whole(config, "pad_token_id", default=1) + 1


def _whole(config: Mapping[str, object], name: str, default: object = None) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return value

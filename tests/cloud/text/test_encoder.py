"""The encoder's states are those of Hugging Face's own code, family by family."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tierline_cloud.text.encoder import Encoder, EncoderConfig
from tierline_cloud.text.weights import FAMILIES, encoder_config, encoder_tensors

DATA = Path(__file__).resolve().parent / "data"  # made by make_golden.py


def _config(family: str) -> dict[str, object]:
    config: dict[str, object] = json.loads((DATA / family / "config.json").read_text())
    return config


def _encoder(family: str) -> Encoder:
    network = Encoder(encoder_config(_config(family)))
    tensors = load_file(DATA / family / "model.safetensors")
    network.load_state_dict(encoder_tensors(_config(family), tensors), strict=True)
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_those_of_transformers(family: str) -> None:
    golden = load_file(DATA / family / "golden.safetensors")
    with torch.inference_mode():
        states = _encoder(family)(golden["ids"])
    torch.testing.assert_close(states, golden["states"], atol=2e-6, rtol=1e-5)


def test_a_wrong_activation_would_show() -> None:
    golden = load_file(DATA / "bert" / "golden.safetensors")
    config = _config("bert") | {"hidden_act": "relu"}
    network = Encoder(encoder_config(config))
    network.load_state_dict(encoder_tensors(config, load_file(DATA / "bert/model.safetensors")))
    with torch.inference_mode():
        states = network.eval()(golden["ids"])
    assert (states - golden["states"]).abs().max() > 1e-2


def test_half_precision_weights_become_float32() -> None:
    tensors = load_file(DATA / "bert" / "model.safetensors")
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    state = encoder_tensors(_config("bert"), halves)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize(
    "lost", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias"]
)
def test_a_missing_tensor_is_named(lost: str) -> None:
    tensors = load_file(DATA / "bert" / "model.safetensors")
    del tensors[lost]
    with pytest.raises(ValueError, match=f"tensor {lost} is missing"):
        encoder_tensors(_config("bert"), tensors)


def test_a_tensor_of_another_shape_is_named() -> None:
    tensors = load_file(DATA / "bert" / "model.safetensors")
    with pytest.raises(ValueError, match=r"word_embeddings.weight is torch.float32 \[64, 8\]; by"):
        encoder_tensors(_config("bert") | {"vocab_size": 65}, tensors)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "mpnet"}, "model_type is 'mpnet'; read are bert, roberta"),
        ({"model_type": ["bert"]}, "model_type is"),
        ({"position_embedding_type": "relative_key"}, "only absolute positions"),
        ({"hidden_act": "swish"}, "activation 'swish' is unknown"),
        ({"num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 10**9}, "layers must be a whole number from 1"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
    ],
)
def test_a_config_that_is_not_read_says_why(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        encoder_config(_config("bert") | change)


@given(
    st.dictionaries(st.sampled_from(sorted(_config("bert"))), st.none() | st.integers() | st.text())
)
def test_any_config_gives_an_encoder_or_a_sentence(change: dict[str, object]) -> None:
    with suppress(ValueError):
        assert isinstance(encoder_config(_config("bert") | change), EncoderConfig)

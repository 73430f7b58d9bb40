"""Reads a local Hugging Face folder: config, safetensors, tokenizer, pooling. Nothing is unpickled.

What the folder asks for and this cannot do (another family of models, a dense layer behind the
pooling, weights in a pickle) is refused in a sentence; nothing is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from tierline import ConfigurationError
from tierline_cloud.text.encoder import Encoder
from tierline_cloud.text.encoding import TextEncoder, TextSettings, read_tokenizer
from tierline_cloud.text.weights import encoder_config, encoder_tensors

WEIGHTS: Final = "model.safetensors"
_MAX_JSON: Final = 64 * 2**20  # a multilingual tokenizer is 17 MB
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_POOLINGS: Final = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}

Json = Mapping[str, object]


def read_folder(folder: Path) -> TextEncoder:
    """The text encoder in a Hugging Face folder, with the pooling sentence-transformers left there
    (mean where it left none). Raises ConfigurationError naming the file and what is wrong."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder; give one with config.json and {WEIGHTS}")
    config = _object(folder, "config.json")
    network = _network(folder, config)
    settings = _settings(folder, network.config.positions)
    tokenizer = _tokenizer(folder, network.config.vocabulary)
    return TextEncoder(network, tokenizer, settings)


def _network(folder: Path, config: Json) -> Encoder:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = sorted(each.name for each in folder.glob("*.bin"))
        if (folder / f"{WEIGHTS}.index.json").is_file():
            reason = f"its weights lie in several files; save them as one {WEIGHTS}"
        elif pickled:
            reason = (
                f"it holds {pickled[0]}, a pickle, which can run code when it is read; convert it "
                f"to {WEIGHTS} where you trust it"
            )
        else:
            reason = "it holds no weights"
        raise ConfigurationError(f"{folder}: {WEIGHTS} is missing: {reason}")
    try:
        state = encoder_tensors(config, load_file(path))
        with torch.device("meta"):  # no second copy: the tensors that were read become the weights
            network = Encoder(encoder_config(config))
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{folder}: {error}") from error
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return read_tokenizer(_bytes(path).decode("utf-8"), vocabulary)
        except ValueError as error:  # UnicodeDecodeError is one
            raise ConfigurationError(f"{path}: {error}") from error
    words = folder / "vocab.txt"
    if not words.is_file():
        raise ConfigurationError(f"{folder}: neither tokenizer.json nor vocab.txt is there")
    said = _maybe(folder, "tokenizer_config.json")
    lower = said.get("do_lower_case", True) is True
    accents, chinese = said.get("strip_accents"), said.get("tokenize_chinese_chars", True)
    try:
        made = BertWordPieceTokenizer(
            str(words),
            lowercase=lower,
            strip_accents=accents if isinstance(accents, bool) else None,
            handle_chinese_chars=chinese is True,
        )
        return read_tokenizer(made.to_str(), vocabulary)
    except Exception as error:  # the library raises bare Exceptions, of its own kinds
        raise ConfigurationError(f"{words} is no word-piece vocabulary: {error}") from error


def _settings(folder: Path, positions: int) -> TextSettings:
    pooling, lower = "mean", False
    longest = positions
    modules = _modules(folder)
    for name, path in modules:
        if name == "Pooling":
            pooling = _pooling(folder / path)
    said = _maybe(folder, "sentence_bert_config.json")
    if "max_seq_length" in said and said["max_seq_length"] is not None:
        longest = _whole(said["max_seq_length"], folder / "sentence_bert_config.json")
    lower = said.get("do_lower_case") is True
    prompts = _maybe(folder, "config_sentence_transformers.json").get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise ConfigurationError(
            f"{folder}/config_sentence_transformers.json: prompts is no object"
        )
    query = prompts.get("query") or ""
    document = prompts.get("document") or prompts.get("passage") or ""
    if not isinstance(query, str) or not isinstance(document, str):
        raise ConfigurationError(f"{folder}: the prompts must be texts")
    return TextSettings(
        pooling=pooling,
        max_tokens=min(longest, positions),
        lower=lower,
        query_prompt=query,
        document_prompt=document,
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(class, path) of what sentence-transformers runs after another; [] where it left nothing."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    listed = _json(path)
    found: list[tuple[str, str]] = []
    for each in listed if isinstance(listed, list) else [None]:
        if not isinstance(each, Mapping) or not isinstance(each.get("type"), str):
            raise ConfigurationError(f"{path} is no list of modules, each with a type")
        name, place = str(each["type"]).rpartition(".")[2], str(each.get("path", ""))
        if name not in _MODULES:
            raise ConfigurationError(
                f"{path} names a module {name}; read are {', '.join(_MODULES)}"
            )
        if name == "Transformer" and place:
            raise ConfigurationError(f"{path}: the model lies in {place}; give that folder")
        found.append((name, place))
    return found


def _pooling(folder: Path) -> str:
    said = _object(folder, "config.json")
    named = said.get("pooling_mode")
    chosen = [how for key, how in _POOLINGS.items() if said.get(key) is True]
    if isinstance(named, str):
        chosen = [named]
    asked_for = {key for key, value in said.items() if value is True}
    others = sorted(k for k in asked_for if k.startswith("pooling_mode_") and k not in _POOLINGS)
    if others or len(chosen) != 1 or chosen[0] not in _POOLINGS.values():
        asked = ", ".join([*others, *chosen]) or "nothing"
        raise ConfigurationError(f"{folder}/config.json asks for {asked}; read are mean or cls")
    if said.get("include_prompt") is False:
        raise ConfigurationError(f"{folder}/config.json: pooling without the prompt is not read")
    return chosen[0]


def _object(folder: Path, name: str) -> Json:
    path = folder / name
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing")
    value = _json(path)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{path} holds no JSON object")
    return value


def _maybe(folder: Path, name: str) -> Json:
    return _object(folder, name) if (folder / name).is_file() else {}


def _json(path: Path) -> object:
    try:
        value: object = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no valid JSON: {error}") from error
    return value


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if len(data) > _MAX_JSON:
        raise ConfigurationError(f"{path} is larger than the {_MAX_JSON} bytes that are read")
    return data


def _whole(value: object, where: Path) -> int:
    if type(value) is not int or not 8 <= value <= 2**20:
        raise ConfigurationError(f"{where}: max_seq_length must be at least 8, got {value!r}")
    return value

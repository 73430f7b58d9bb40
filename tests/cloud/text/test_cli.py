"""`tierline text`: a catalogue becomes a signed bundle, or the command says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tierline.cli import EXIT_DONE, EXIT_FAILED, main
from tierline_cloud.serve.scorer import load_scorer
from tierline_cloud.text import run
from tierline_serving.bundle import Trust, open_bundle
from tierline_serving.signing import Signer

ITEMS = ["red shoes for women", "hand soap", "blue tea cup"]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ITEMS))
    return path


def test_a_catalogue_becomes_a_signed_bundle_that_is_served(
    items: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signer = Signer.generate()
    key = tmp_path / "key.pem"
    signer.save(key, tmp_path / "key.pub")
    command = ["text", "index", str(tiny_folder), str(items), "--out", str(tmp_path / "bundles")]
    command += ["--key", str(key), "--model", "shop", "--max-tokens", "5", "--threads", "1"]
    assert main(command) == EXIT_DONE
    printed = capsys.readouterr().out
    assert "3 items encoded" in printed
    assert "1 texts were longer than 5 tokens and are cut there" in printed
    (folder,) = (tmp_path / "bundles").iterdir()
    bundle = open_bundle(folder, Trust(keys=(signer.public_key,)))
    assert bundle.manifest.metrics["tokens"] == 3 + 2 + 3
    assert load_scorer(bundle, threads=1).info.name == "shop"


def test_a_folder_that_is_no_model_is_refused_in_a_sentence(
    items: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["text", "index", str(tmp_path), str(items), "--out", str(tmp_path / "bundles")]
    assert main([*command, "--threads", "1"]) == EXIT_FAILED
    assert "config.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()


def test_more_tokens_than_the_model_reads_are_refused(
    items: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["text", "index", str(tiny_folder), str(items), "--out", str(tmp_path / "bundles")]
    assert main([*command, "--max-tokens", "99", "--threads", "1"]) == EXIT_FAILED
    assert "--max-tokens: max_tokens 99 is more than the 24 positions" in capsys.readouterr().err


def test_vectors_that_int8_would_spoil_are_refused(
    items: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    build = run.build_index

    def spoilt(*given: object) -> object:
        index, fidelity = build(*given)  # type: ignore[arg-type]
        return index, replace(fidelity, lowest_percent=0.97)

    monkeypatch.setattr(run, "build_index", spoilt)
    command = ["text", "index", str(tiny_folder), str(items), "--out", str(tmp_path / "bundles")]
    assert main([*command, "--threads", "1"]) == EXIT_FAILED
    assert "int8 rows keep a cosine of" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()


def test_an_evaluation_is_printed_and_written(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["text", "evaluate", str(tiny_folder), "--items", "40", "--queries", "9"]
    written = tmp_path / "figures" / "text.json"
    assert main([*command, "--threads", "1", "--json", str(written)]) == EXIT_DONE
    assert "vectors, then tokens" in capsys.readouterr().out
    assert json.loads(written.read_text())["queries"] == 9

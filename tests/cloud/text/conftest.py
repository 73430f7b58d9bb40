"""The tiny encoder that every test of text search reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierline_cloud.serve.scorer import TorchScorer, load_scorer
from tierline_cloud.text.encoding import TextEncoder
from tierline_cloud.text.folder import read_folder
from tierline_cloud.text.index import TextIndex, build_index
from tierline_cloud.text.packing import pack_index
from tierline_serving.bundle import Bundle

DATA = Path(__file__).resolve().parent / "data"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """A Hugging Face folder: an untrained BERT of width 8 with 62 words."""
    return DATA / "bert"


@pytest.fixture(scope="session")
def encoder(tiny_folder: Path) -> TextEncoder:
    return read_folder(tiny_folder)


CATALOGUE = [
    "red shoes for women",
    "waterproof hiking boots for men",
    "hand soap",
    "blue tea cup",
    "warm wool red kids shoes",
    "steel desk lamp",
    "oak desk",
    "dark coffee cup",
    "hand cream",
    "light lamp for kids",
]


@pytest.fixture(scope="session")
def index(encoder: TextEncoder) -> TextIndex:
    return build_index(encoder, CATALOGUE)[0]


@pytest.fixture(scope="session")
def text_bundle(encoder: TextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made, fidelity = build_index(encoder, CATALOGUE)
    return pack_index(
        made,
        encoder,
        CATALOGUE,
        fidelity,
        model="products",
        destination=tmp_path_factory.mktemp("text"),
        signer=None,
        now=datetime(2026, 11, 21, tzinfo=UTC),
        rescored=4,
    )


@pytest.fixture(scope="session")
def scorer(text_bundle: Bundle) -> TorchScorer:
    return load_scorer(text_bundle, threads=1)

"""The tiny encoder that every test of text search reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierline_cloud.text.encoding import TextEncoder
from tierline_cloud.text.folder import read_folder

DATA = Path(__file__).resolve().parent / "data"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """A Hugging Face folder: an untrained BERT of width 8 with 62 words."""
    return DATA / "bert"


@pytest.fixture(scope="session")
def encoder(tiny_folder: Path) -> TextEncoder:
    return read_folder(tiny_folder)

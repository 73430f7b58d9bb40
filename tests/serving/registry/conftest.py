"""The sample bundles are imported by name; a key, and one bundle in two versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bundle"))

import sample

from tierline_serving.bundle import Bundle
from tierline_serving.signing import Signer, Trust


@pytest.fixture(scope="session")
def signer() -> Signer:
    """The key that signs what is trusted."""
    return Signer.generate()


@pytest.fixture
def trust(signer: Signer) -> Trust:
    """Trust in that key alone."""
    return Trust(keys=(signer.public_key,))


@pytest.fixture
def first(tmp_path: Path, signer: Signer) -> Bundle:
    """Version 1 of a signed bundle."""
    return sample.write_sequence_bundle(tmp_path / "built", signer=signer, version="1")


@pytest.fixture
def second(tmp_path: Path, signer: Signer) -> Bundle:
    """Version 2 of the same model."""
    return sample.write_sequence_bundle(tmp_path / "built", signer=signer, version="2")

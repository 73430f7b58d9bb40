"""The sample bundles beside these tests are imported by name; one signed bundle for each test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

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
def bundle(tmp_path: Path, signer: Signer) -> Bundle:
    """A signed bundle of kind sequence."""
    return sample.write_sequence_bundle(tmp_path / "bundles", signer=signer)

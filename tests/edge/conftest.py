"""The edge's tiny bundles, written once, and scorers on them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tiny_bundles

from tierline_edge.scorer import EdgeScorer, load_scorer
from tierline_serving.bundle import Bundle


@pytest.fixture(scope="session")
def sequence_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundles.write_sequence(tmp_path_factory.mktemp("sequence"))


@pytest.fixture(scope="session")
def sequence(sequence_bundle: Bundle) -> EdgeScorer:
    """A scorer of a float32 table."""
    return load_scorer(sequence_bundle, threads=1)


@pytest.fixture(scope="session")
def int8_sequence(tmp_path_factory: pytest.TempPathFactory) -> EdgeScorer:
    """A scorer of a row-wise int8 table."""
    bundle = tiny_bundles.write_sequence(tmp_path_factory.mktemp("int8"), int8=True)
    return load_scorer(bundle, threads=1)


@pytest.fixture(scope="session")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> EdgeScorer:
    """A scorer of a float32 table whose items have neighbours."""
    folder = tmp_path_factory.mktemp("boosted")
    return load_scorer(tiny_bundles.write_sequence(folder, neighbours=True), threads=1)


@pytest.fixture(scope="session")
def int8_boosted(tmp_path_factory: pytest.TempPathFactory) -> EdgeScorer:
    """The same with a row-wise int8 table."""
    folder = tmp_path_factory.mktemp("int8-boosted")
    return load_scorer(tiny_bundles.write_sequence(folder, int8=True, neighbours=True), threads=1)


@pytest.fixture(scope="session")
def tensor_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundles.write_tensor(tmp_path_factory.mktemp("tensor"))


@pytest.fixture(scope="session")
def tensor(tensor_bundle: Bundle) -> EdgeScorer:
    return load_scorer(tensor_bundle, threads=1)

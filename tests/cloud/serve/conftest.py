"""Where the tests of cloud serving find their bundles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cloud_bundles

from tierline_cloud.serve.scorer import TorchScorer, load_scorer
from tierline_serving.bundle import Bundle


@pytest.fixture(scope="session")
def sasrec_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return cloud_bundles.write_sasrec(tmp_path_factory.mktemp("sasrec"))


@pytest.fixture(scope="session")
def sequence(sasrec_bundle: Bundle) -> TorchScorer:
    return load_scorer(sasrec_bundle, threads=1)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> TorchScorer:
    """A scorer of a module that its bundle brings."""
    bundle = cloud_bundles.write_own(tmp_path_factory.mktemp("own"))
    return load_scorer(bundle, threads=1, allowed=["cloud_bundles"])

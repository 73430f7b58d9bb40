"""The tiny torch bundles of the serving tests are deployed here too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serve"))

import cloud_bundles

from tierline_serving.bundle import Bundle


@pytest.fixture(scope="session")
def sasrec_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return cloud_bundles.write_sasrec(tmp_path_factory.mktemp("sasrec"))

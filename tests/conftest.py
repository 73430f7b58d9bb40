"""What every test shares: how hypothesis searches, and which tests this machine cannot run."""

from __future__ import annotations

import os
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A slow machine is no failing example, and a gate must judge the same examples every time; the
# nightly run searches new ones.
settings.register_profile(
    "gate", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

HAS_CUDA = Path("/dev/nvidiactl").exists()


def pytest_configure() -> None:
    """Refuse to run where TIERLINE_TESTS_COMPILED asks for machine code and sources are met."""
    if not os.environ.get("TIERLINE_TESTS_COMPILED"):
        return
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    modules = tomllib.loads(project.read_text("utf-8"))["tool"]["tierline"]["compiled"]
    origins = {module: spec.origin if (spec := find_spec(module)) else None for module in modules}
    plain = [
        module
        for module, origin in origins.items()
        if not origin or not origin.endswith(tuple(EXTENSION_SUFFIXES))
    ]
    if plain:
        raise pytest.UsageError(
            f"TIERLINE_TESTS_COMPILED is set, but not compiled: {', '.join(plain)}; "
            "put build/compiled first on PYTHONPATH (make compiled)."
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name and reason, what needs a GPU where there is none."""
    if HAS_CUDA:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return Path(__file__).resolve().parent.parent

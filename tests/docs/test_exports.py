"""The public names of each package: one sorted list, and every name on it exists."""

from __future__ import annotations

import importlib

import pytest

PACKAGES = (
    "tierline",
    "tierline.wire",
    "tierline_serving",
    "tierline_edge",
    "tierline_cloud",
    "tierline_kernels",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_importable_and_listed_once(package: str) -> None:
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_sdk_lists_its_public_names_sorted() -> None:
    tierline = importlib.import_module("tierline")
    # ruff's order (RUF022): constants, then classes, then functions; dunders count as functions.
    assert list(tierline.__all__) == sorted(tierline.__all__, key=_isort_key)


def test_the_sdk_shows_no_public_module_level_name_it_does_not_list() -> None:
    tierline = importlib.import_module("tierline")
    listed = set(tierline.__all__)
    # Re-exported classes say where users find them; anything else public is a leak.
    leaked = {
        name
        for name, value in vars(tierline).items()
        if isinstance(value, type) and not name.startswith("_") and name not in listed
    }
    assert leaked == set()


def _isort_key(name: str) -> tuple[int, str]:
    if name.isupper():
        return (0, name)
    return (1 if name.lstrip("_")[:1].isupper() else 2, name)

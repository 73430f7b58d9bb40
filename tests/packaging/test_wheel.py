"""The built wheel holds what the checkout holds, and each source root only its package."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

ROOTS = {
    "sdk": "tierline",
    "serving": "tierline_serving",
    "edge_runtime": "tierline_edge",
    "cloud_runtime": "tierline_cloud",
    "cuda_kernels": "tierline_kernels",
    "drills": "tierline_drills",
}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*build, str(repository)], capture_output=True, text=True, check=False, timeout=120,
        # Machine code is what tests/kernels/test_shipped.py and test_compiled.py build.
        env=os.environ | {"TIERLINE_CUBINS": "skip", "TIERLINE_COMPILED": "skip"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_wheel_holds_every_file_of_the_package(
    root: str, package: str, repository: Path, wheel: set[str]
) -> None:
    wanted = {
        path.relative_to(repository / root).as_posix()
        for path in (repository / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert f"{package}/__init__.py" in wanted
    assert wanted <= wheel, f"missing from the wheel: {sorted(wanted - wheel)}"


@pytest.mark.parametrize("package", ROOTS.values())
def test_wheel_tells_type_checkers_that_the_package_is_typed(package: str, wheel: set[str]) -> None:
    assert f"{package}/py.typed" in wheel


def test_wheel_holds_nothing_but_the_six_packages_and_their_metadata(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS.values())


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_source_root_holds_only_its_package_and_a_readme(
    root: str, package: str, repository: Path
) -> None:
    # Whatever lies beside a package in its root becomes importable by its bare name.
    found = {path.name for path in (repository / root).iterdir()} - {"__pycache__"}
    assert found == {package, "README.md"}


def test_every_pin_of_the_constraints_is_exact_and_named_once(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    names = [pin.partition("==")[0] for pin in pins]
    assert all(pin.count("==") == 1 and "+" not in pin and " " not in pin for pin in pins)
    assert len(set(names)) == len(names) > 50


def test_the_packages_the_build_names_are_the_six(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == [f"{root}/{package}" for root, package in ROOTS.items()]

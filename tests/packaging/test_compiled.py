"""What is compiled runs, is built whole or not at all, and travels in a wheel for one platform.

Two modules are compiled here, in a copy of the checkout; `make compiled` compiles all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from tierline_serving import compiling
from tierline_serving.compiling import Plan

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

MODULES = ["tierline_serving.batching.batcher", "tierline_serving.batching.limits"]
LIMITS = "serving/tierline_serving/batching/limits.py"
PROBE = """
import json
from tierline_serving.batching import batcher
from tierline_serving.form import is_compiled
queue = batcher.Batcher(batcher.BatchLimits())
refusal = queue.offer("a", 3, 2.0, 1.0)
print(json.dumps({
    "file": batcher.__file__, "compiled": is_compiled(), "refusal": refusal,
    "batch": queue.take(1.5).tickets,
}))
"""


def copied(repository: Path, root: Path) -> Path:
    """This checkout, as far as a wheel holds it, with two modules to compile. Their package imports
    nothing by itself there, because mypy would read for ten seconds what it does."""
    told = (repository / "pyproject.toml").read_text("utf-8")
    for package in tomllib.loads(told)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        left = shutil.ignore_patterns("__pycache__", "cubins")
        shutil.copytree(repository / package, root / package, ignore=left)
    (root / LIMITS).with_name("__init__.py").write_text('"""Empty."""\n', "utf-8")
    for name in ("hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(repository / name, root / name)
    table = f"[tool.tierline]\ncompiled = {json.dumps(MODULES)}\n"
    told, changed = re.subn(r"\[tool\.tierline\]\ncompiled = \[.*?\n\]\n", table, told, flags=re.S)
    assert changed == 1
    (root / "pyproject.toml").write_text(told, "utf-8")
    return root


@pytest.fixture(scope="module")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that is not compiled; tests leave it as it is."""
    return copied(repository, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def compiled(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose build/compiled holds two modules' machine code."""
    root = copied(repository, tmp_path_factory.mktemp("compiled"))
    done = compile_in(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^2 modules compiled in \d+ s: \S*compiled$", done.stdout, re.M)
    return root


def compile_in(
    root: Path, *options: str, python: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """One run of the command on a copy."""
    module = ("-m", "tierline_serving.compiling")
    return subprocess.run(
        [sys.executable, *python, *module, "--root", str(root), *options],
        env=os.environ | {"PYTHONPATH": str(root / "serving")} | env,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def held(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder but Python's caches, and which file it is since when."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def probe(folder: Path) -> Any:  # JSON's values
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whoever_puts_the_folder_on_the_path_runs_machine_code_that_answers_as_the_sources_do(
    compiled: Path,
) -> None:
    fast, plain = probe(compiled / "build" / "compiled"), probe(compiled / "serving")
    assert fast["file"].startswith(str(compiled / "build" / "compiled"))
    assert fast["file"].endswith(tuple(EXTENSION_SUFFIXES))
    assert plain["file"] == str(compiled / "serving/tierline_serving/batching/batcher.py")
    assert (fast["compiled"], plain["compiled"]) == (True, False)
    assert (fast["refusal"], fast["batch"]) == (plain["refusal"], plain["batch"]) == (None, ["a"])


def test_the_folder_holds_the_packages_and_the_machine_code_and_nothing_else(
    compiled: Path,
) -> None:
    names = set(held(compiled / "build" / "compiled"))
    machine = {name for name in names if name.endswith(tuple(EXTENSION_SUFFIXES))}
    stems = {name.split(".")[0] for name in machine}
    assert stems == {module.replace(".", "/") for module in MODULES} | {"tierline__mypyc"}
    sources = {at for _, at in Plan.of(compiled).sources()}
    assert names == machine | sources | {compiling.STAMP}
    assert [path.name for path in (compiled / "build").iterdir()] == ["compiled"]


def test_a_second_build_compiles_nothing_and_leaves_every_file_alone(compiled: Path) -> None:
    before = held(compiled / "build")
    done = compile_in(compiled)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "up to date" in done.stdout
    assert held(compiled / "build") == before


def test_a_source_that_does_not_compile_leaves_the_old_build_and_is_told(compiled: Path) -> None:
    before, source = held(compiled / "build"), compiled / LIMITS
    text = source.read_text("utf-8")
    source.write_text(text + '\nWRONG: int = "no number"\n', "utf-8")
    try:
        done = compile_in(compiled)
    finally:
        source.write_text(text, "utf-8")
    assert done.returncode == compiling.FAILED
    assert re.search(r"batching/limits\.py:\d+: error: Incompatible types", done.stdout)
    assert held(compiled / "build") == before


def test_a_build_is_stale_once_a_source_a_file_of_it_or_the_table_is_another(
    compiled: Path,
) -> None:
    plan, out = Plan.of(compiled), compiled / "build" / "compiled"
    assert compiling.is_fresh(out, plan)
    for path in (compiled / LIMITS, out / "tierline_serving" / "batching" / "limits.py"):
        text = path.read_bytes()
        path.write_bytes(text + b"\n")
        assert not compiling.is_fresh(out, plan)
        path.write_bytes(text)
    stray = out / "stray.txt"
    stray.touch()
    assert not compiling.is_fresh(out, plan)
    stray.unlink()
    assert not compiling.is_fresh(out, Plan(plan.root, plan.packages, plan.modules[:1]))
    assert compiling.is_fresh(out, plan)


def test_a_wheel_with_compiled_modules_is_for_one_platform_and_holds_the_sources_beside(
    compiled: Path, tmp_path: Path
) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run(
        [*build, str(compiled)], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"TIERLINE_CUBINS": "skip", "TIERLINE_COMPILED": "require"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.whl")
    assert "none-any" not in path.name
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (about,) = (name for name in names if name.endswith("/WHEEL"))
        assert "Root-Is-Purelib: false" in wheel.read(about).decode()
        wheel.extractall(tmp_path / "installed")
    libraries = [name for name in names if name.endswith(tuple(EXTENSION_SUFFIXES))]
    assert len(libraries) == len(MODULES) + 1
    assert {compiling.source_of(module) for module in MODULES} <= set(names)
    told = probe(tmp_path / "installed")
    assert told["compiled"]
    assert told["file"].startswith(str(tmp_path / "installed"))


@pytest.mark.parametrize(
    ("python", "env", "told"),
    [
        (("-S",), {}, "mypyc is not installed"),  # without site-packages
        ((), {"CC": "no-such-compiler"}, "'no-such-compiler' is not on the path"),
    ],
)
def test_without_its_toolchain_nothing_is_built_and_the_sentence_says_what_to_install(
    project: Path, python: tuple[str, ...], env: dict[str, str], told: str
) -> None:
    done = compile_in(project, python=python, **env)
    assert done.returncode == compiling.NO_TOOLCHAIN
    assert told in done.stdout
    assert "install" in done.stdout
    assert not (project / "build").exists()


def test_a_folder_that_is_somebody_elses_is_not_replaced(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    done = compile_in(project, "--out", str(tmp_path))
    assert done.returncode == compiling.UNUSABLE
    assert "name another folder" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("table", ["", "[tool.tierline]\ncompiled = ['tierline_serving.absent']"])
def test_a_table_that_names_no_module_is_refused(tmp_path: Path, table: str) -> None:
    wheel = "[tool.hatch.build.targets.wheel]\npackages = ['serving/tierline_serving']\n"
    (tmp_path / "pyproject.toml").write_text(wheel + table, "utf-8")
    (tmp_path / "serving" / "tierline_serving").mkdir(parents=True)
    with pytest.raises(compiling.UnusableInput, match=r"tool\.tierline\.compiled"):
        Plan.of(tmp_path)


def hook(
    repository: Path, monkeypatch: pytest.MonkeyPatch, wish: str, answer: tuple[int, str],
    version: str = "standard",
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """What the wheel's hook says and does where the build ends like this."""
    monkeypatch.syspath_prepend(str(repository))
    from hatch_build import Compiled

    monkeypatch.setenv("TIERLINE_COMPILED", wish)
    monkeypatch.setattr(Compiled, "build", lambda self, folder, wish: answer)
    told: list[str] = []
    data: dict[str, Any] = {"force_include": {}}
    Compiled(repository, told.append).include(version, data)
    return told[0], data


def test_a_wheel_without_compiled_modules_stays_pure_and_the_build_says_why(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = (compiling.NO_TOOLCHAIN, "mypyc is not installed.")
    cases = {("", "standard"): "mypyc is not", ("skip", "standard"): "as asked",
             ("require", "editable"): "checkout"}  # fmt: skip
    for (wish, version), why in cases.items():
        told, data = hook(repository, monkeypatch, wish, absent, version)
        assert why in told
        assert data == {"force_include": {}}


def test_a_wheel_that_must_be_compiled_or_whose_sources_fail_is_not_built(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = (compiling.NO_TOOLCHAIN, "mypyc is not installed.")
    for wish, answer in (("require", absent), ("", (compiling.FAILED, "nothing was compiled"))):
        with pytest.raises(RuntimeError, match=answer[1][:8]):
            hook(repository, monkeypatch, wish, answer)
    with pytest.raises(RuntimeError, match="skip or require"):
        hook(repository, monkeypatch, "yes", absent)

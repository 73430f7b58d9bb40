"""Machine code built ahead: found by generation, refused when stale or damaged, in the wheel."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tierline_kernels import BackEndMissing
from tierline_kernels.cuda import build, catalogue, driver, shipped
from tierline_kernels.cuda.build import Build

ROOT = Path(__file__).resolve().parent.parent.parent


def made(name: str, capability: tuple[int, int], cubin: bytes = b"code") -> Build:
    return Build(name, f"symbol_{name}", capability, 8, 0, 0, 0, (), (), cubin)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder a package's machine code is looked for in."""
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path / "cubins")
    shipped.index.cache_clear()
    yield tmp_path / "cubins"
    shipped.index.cache_clear()


def test_a_device_takes_the_newest_code_of_its_generation_that_is_not_newer_than_it(
    folder: Path,
) -> None:
    build.write(folder, [made("check", (8, 0)), made("check", (8, 6)), made("emit", (9, 0))])
    assert shipped.place_of("check", (8, 9)) == "sm_86/check.cubin"
    assert shipped.place_of("check", (8, 3)) == "sm_80/check.cubin"
    assert shipped.place_of("check", (9, 0)) is None
    assert shipped.place_of("check", (7, 5)) is None
    assert shipped.load("emit", (9, 0)) == (b"code", "symbol_emit")


def test_a_package_without_machine_code_holds_nothing_and_says_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shipped.index() == shipped.Index()
    assert shipped.load("check", (9, 0)) is None
    assert caplog.records == []


def edit_source(folder: Path) -> None:
    text = (folder / shipped.INDEX).read_text("utf-8")
    (folder / shipped.INDEX).write_text(text.replace(shipped.source_hash(), "0" * 64), "utf-8")


def empty(folder: Path) -> None:
    (folder / shipped.INDEX).write_text("{}", "utf-8")


def garble(folder: Path) -> None:
    (folder / shipped.INDEX).write_text('{"source": "', "utf-8")


def flip(folder: Path) -> None:
    (folder / "sm_90" / "check.cubin").write_bytes(b"kode")


def lose(folder: Path) -> None:
    (folder / "sm_90" / "check.cubin").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (edit_source, "other sources"), (empty, "lacks"), (garble, "on first use"),
        (flip, "damaged"), (lose, "damaged"),
    ],
)  # fmt: skip
def test_machine_code_that_is_stale_or_damaged_is_refused_and_the_log_says_so_once(
    folder: Path, spoil: Callable[[Path], None], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    build.write(folder, [made("check", (9, 0))])
    spoil(folder)
    assert shipped.load("check", (9, 0)) is None
    assert [told in record.getMessage() for record in caplog.records] == [True]


def test_what_is_not_in_the_package_is_compiled_and_the_log_says_which_way_was_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build.write(folder, [made("check", (9, 0))])
    compiled = made("check", (8, 0), b"compiled")
    monkeypatch.setattr(build, "build", lambda kernel, capability: compiled)
    with caplog.at_level(logging.DEBUG, "tierline.kernels"):
        assert driver.machine_code(catalogue.CHECK, (9, 0)) == (b"code", "symbol_check")
        assert driver.machine_code(catalogue.CHECK, (8, 0)) == (b"compiled", "symbol_check")
    told = [record.getMessage() for record in caplog.records]
    assert ["from the package" in told[0], "compiled" in told[1]] == [True, True]


def test_the_hash_covers_every_module_a_kernel_is_made_of() -> None:
    makers = {kernel.make for kernel in catalogue.kernels()}
    modules = {getattr(make, "func", make).__module__.rpartition(".")[2] for make in makers}
    assert {f"{name}.py" for name in modules} | {"catalogue.py", "intrinsics.py"} == set(
        shipped.SOURCES
    )


def test_a_folder_is_fresh_only_while_sources_tools_kernels_and_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "kernels", lambda: [catalogue.CHECK, catalogue.EMIT])
    target = tmp_path / "cubins"
    both = [made("check", (9, 0)), made("emit", (9, 0))]
    build.write(target, both)
    assert build.is_fresh(target, [(9, 0)])
    assert not build.is_fresh(target, [(9, 0), (8, 0)])
    for spoil in (edit_source, empty, garble, flip, lose):
        build.write(target, both)
        spoil(target)
        assert not build.is_fresh(target, [(9, 0)])
    build.write(target, both)
    monkeypatch.setattr(build, "version", lambda tool: "13.0.1")
    assert not build.is_fresh(target, [(9, 0)])
    assert not build.is_fresh(tmp_path / "absent", [(9, 0)])


def test_a_toolkit_that_is_not_the_pinned_one_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "version", lambda tool: "13.4.0")
    with pytest.raises(BackEndMissing, match=r"nvidia-nvvm is 13\.4\.0"):
        build.tools()
    assert build.main(["--out", str(tmp_path / "cubins")]) == build.NO_TOOLCHAIN
    assert "13.4.0" in capsys.readouterr().out
    assert not (tmp_path / "cubins").exists()


def hook(
    monkeypatch: pytest.MonkeyPatch, wish: str, answer: tuple[int, str], version: str = "standard"
) -> tuple[list[str], dict[str, Any]]:
    monkeypatch.syspath_prepend(str(ROOT))
    from hatch_build import Cubins

    monkeypatch.setenv("TIERLINE_CUBINS", wish)
    monkeypatch.setattr(Cubins, "build", lambda self, folder, wish: answer)
    told: list[str] = []
    data: dict[str, Any] = {"force_include": {}}
    Cubins(ROOT, told.append).include(version, data)
    return told, data["force_include"]


def test_the_wheel_takes_what_was_built_and_otherwise_says_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = (3, "numba-cuda is not installed.")
    told, included = hook(monkeypatch, "", (0, "9 kernels, 0 with problems"))
    assert list(included.values()) == ["tierline_kernels/cuda/cubins"]
    assert "9 kernels" in told[0]
    for wish, version in (("", "standard"), ("skip", "standard"), ("all", "editable")):
        told, included = hook(monkeypatch, wish, absent, version)
        assert included == {}
        assert "compiled on first use" in told[0]
    assert "numba-cuda is not installed" in hook(monkeypatch, "", absent)[0][0]
    for wish, answer in (("all", absent), ("9.0", absent), ("", (1, "bag: 8 bytes spilled"))):
        with pytest.raises(RuntimeError, match=answer[1][:8]):
            hook(monkeypatch, wish, answer)
    with pytest.raises(RuntimeError, match="TIERLINE_CUBINS"):
        hook(monkeypatch, "no", absent)


PROBE = """
import json, sys, time
from tierline_kernels.cuda import catalogue, driver, shipped
names = [kernel.name for kernel in catalogue.kernels()]
driver.machine_code(catalogue.EMIT, (9, 0))  # reads the index
started = time.perf_counter()
codes = {name: shipped.load(name, (9, 0)) for name in names}
spent = time.perf_counter() - started
shipped.index.cache_clear()
first = time.perf_counter()
driver.machine_code(catalogue.CHECK, (9, 0))
first = time.perf_counter() - first
print(json.dumps({
    "file": shipped.__file__, "missing": [name for name, code in codes.items() if code is None],
    "elf": all(code[0][:4] == b"\\x7fELF" for code in codes.values() if code),
    "other": shipped.place_of("check", (8, 0)), "each": spent / len(names), "first": first,
    "compiler": "tierline_kernels.cuda.build" in sys.modules,
}))
"""


@pytest.mark.nightly
@pytest.mark.packaging
def test_a_wheel_with_machine_code_loads_all_of_it_within_20_ms_and_compiles_nothing(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".venv", ".git", "build", "__pycache__", ".*cache")
    shutil.copytree(ROOT, tree, ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
    ]
    started = time.monotonic()
    done = subprocess.run(
        [*command, str(tree)],
        env=os.environ | {"TIERLINE_CUBINS": "9.0", "TIERLINE_COMPILED": "skip"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.startswith("tierline_kernels")]
        wheel.extractall(tmp_path / "installed", names)
    assert "tierline_kernels/cuda/cubins/index.json" in names
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "NUMBA_ENABLE_CUDASIM": "0"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert probe.returncode == 0, probe.stderr[-3000:]
    told = json.loads(probe.stdout)
    print(f"built in {time.monotonic() - started:.0f} s: {told}")
    assert told["file"].startswith(str(tmp_path / "installed"))
    assert (told["missing"], told["elf"], told["other"], told["compiler"]) == (
        [],
        True,
        None,
        False,
    )
    # Index, hash of the sources, one cubin: all that comes before the driver loads it.
    assert told["first"] < 0.020
    assert told["each"] < 0.020

"""Compiles the modules a request passes to machine code, from the sources that run as they are.

Behaviour stays; what the interpreter costs goes. ``pyproject.toml`` names the modules; whoever puts
the folder before the sources on the path runs Tierline compiled::

    python -m tierline_serving.compiling
    PYTHONPATH=build/compiled python -m tierline.cli edge serve shop-edge
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

BUILT: Final = 0  # exit statuses
FAILED: Final = 1
UNUSABLE: Final = 2
NO_TOOLCHAIN: Final = 3
STAMP: Final = "compiled.json"
LIBRARY: Final = "tierline"  # mypyc adds __mypyc; the modules' code is in this one library
_LEFT_BEHIND: Final = (".pyc", ".so", ".pyd")  # what Python and older builds left
_TOOLS: Final = ("mypy", "setuptools")

# What setuptools runs, in a process and a folder of its own. Strictly: of a class whose base mypy
# does not know, mypyc would make code that crashes.
_SETUP: Final = f"""
import os, sys
from setuptools import setup
from mypyc.build import mypycify

work, *paths = sys.argv[1:]
flags = ["--config-file=", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
modules = mypycify(
    [*flags, "--cache-dir", work, *paths], opt_level="3", debug_level="1",
    target_dir=work, group_name="{LIBRARY}",
)
print("compiling the C code …", flush=True)
sys.argv = ["setup.py", "-q", "build_ext", "--inplace", "--build-temp", work]
sys.argv += ["--build-lib", work, "--parallel", str(os.cpu_count() or 1)]
setup(name="tierline", ext_modules=modules, packages=[])
"""

Say = Callable[[str], None]


class CompilingError(Exception):
    """Nothing was built; what an earlier build left is as it was."""

    status = FAILED


class ToolchainMissing(CompilingError):
    """mypyc, setuptools, a C compiler or what the modules import is not installed here."""

    status = NO_TOOLCHAIN


class UnusableInput(CompilingError):
    """The project names nothing to compile, or the folder to write holds something else."""

    status = UNUSABLE


@dataclass(frozen=True, slots=True)
class Plan:
    """What a project asks to have compiled."""

    root: Path
    packages: tuple[str, ...]  # folders below the root, as the wheel takes them
    modules: tuple[str, ...]  # dotted names

    @classmethod
    def of(cls, root: Path) -> Self:
        """Read from ``root/pyproject.toml``. Raises UnusableInput when a table is absent or a
        module is in none of the packages."""
        try:
            tables = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]
            packages = tuple(tables["hatch"]["build"]["targets"]["wheel"]["packages"])
            modules = tuple(tables["tierline"]["compiled"])
        except (OSError, KeyError) as problem:
            raise UnusableInput(
                f"{root / 'pyproject.toml'} cannot be read or lacks a table ({problem}); it must "
                "name tool.hatch.build.targets.wheel.packages and tool.tierline.compiled."
            ) from problem
        plan = cls(root, packages, modules)
        held = {at for _, at in plan.sources()}
        lost = [module for module in modules if source_of(module) not in held]
        if lost or not modules:
            raise UnusableInput(
                f"pyproject.toml has {', '.join(lost) or 'nothing'} compiled, which is no module "
                "of its packages; correct tool.tierline.compiled."
            )
        return plan

    def sources(self) -> Iterator[tuple[Path, str]]:
        """Every file of the packages, and where a folder of packages holds it."""
        for package in self.packages:
            top = self.root / package
            for path in sorted(top.rglob("*")):
                within = path.relative_to(top.parent)
                if path.is_file() and not _is_left_behind(within):
                    yield path, within.as_posix()

    def imports(self) -> set[str]:
        """The packages, besides its own, that the modules to compile import."""
        places = {at: path for path, at in self.sources()}
        found: set[str] = set()
        for module in self.modules:
            with suppress(SyntaxError):  # mypy tells it better
                tree = ast.parse(places[source_of(module)].read_bytes())
                for node in ast.walk(tree):
                    if isinstance(node, ast.Import):
                        found |= {alias.name.partition(".")[0] for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and node.module is not None:
                        found.add(node.module.partition(".")[0])
        return found - {Path(package).name for package in self.packages}

    def key(self, sources: Mapping[str, str]) -> str:
        """A hash of all that decides what comes out of sources with these hashes: they, the
        tables, the tools, this module."""
        told: dict[str, object] = {
            "sources": sources,
            "packages": self.packages,
            "modules": self.modules,
            "python": (sys.version, sysconfig.get_platform()),
            "tools": {tool: version(tool) for tool in _TOOLS},
            "by": _hash(Path(__file__)),
        }
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _is_left_behind(path: Path) -> bool:
    return path.suffix in _LEFT_BEHIND or "__pycache__" in path.parts


def source_of(module: str) -> str:
    """Where a folder of packages holds a module's source."""
    return module.replace(".", "/") + ".py"


def require_toolchain(plan: Plan) -> None:
    """Raises ToolchainMissing, which says what is absent and what to do."""
    for tool in ("mypyc", "setuptools"):
        if find_spec(tool) is None:
            raise ToolchainMissing(
                f"{tool} is not installed; run `make setup`, or install mypy and setuptools in "
                "the versions constraints.txt pins."
            )
    absent = sorted(name for name in plan.imports() if find_spec(name) is None)
    if absent:
        raise ToolchainMissing(
            f"{', '.join(absent)}: what the modules import is not installed, and its types decide "
            "what they become; run `make setup`, or install tierline[edge]."
        )
    if os.name != "posix":
        return  # setuptools finds the compiler there, and says so if there is none
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise ToolchainMissing(
            f"the C compiler {compiler!r} is not on the path; install gcc or clang, or name one in "
            "the environment variable CC."
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise ToolchainMissing(
            "Python's C headers are not installed; install them (Debian and Ubuntu: python3-dev)."
        )


def is_fresh(out: Path, plan: Plan) -> bool:
    """Whether a folder holds exactly what a build would write now, and nothing else."""
    try:
        stamp = json.loads((out / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    key = plan.key({at: _hash(path) for path, at in plan.sources()})
    return isinstance(stamp, dict) and stamp == {"key": key, "files": _held(out)}


def compile_into(out: Path, plan: Plan, say: Say) -> None:
    """Build in a fresh folder beside ``out`` and move it there; ``say`` is told each step.

    Raises CompilingError with the compiler's words; ``out`` is then as it was.
    """
    if out.exists() and not (out / STAMP).is_file():
        raise UnusableInput(f"{out} is not of this command's making; name another folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, because a folder moves in one step only within its file system.
    with TemporaryDirectory(prefix=".compiling-", dir=out.parent) as scratch:
        tree = Path(scratch) / "tree"
        for path, at in plan.sources():
            (tree / at).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / at)
        key = plan.key(_held(tree))  # of what is compiled: the checkout may change meanwhile
        say(f"checking and translating {len(plan.modules)} modules to C …")
        _run_mypyc(Path(scratch), tree, plan.modules, say)
        stamp = {"key": key, "files": _held(tree)}
        (tree / STAMP).write_text(json.dumps(stamp, indent=1), "utf-8")
        if out.exists():
            out.rename(Path(scratch) / "before")
        tree.rename(out)


def _run_mypyc(scratch: Path, tree: Path, modules: Sequence[str], say: Say) -> None:
    """Machine code beside the sources in ``tree``; C and object files stay outside of it."""
    (scratch / "setup.py").write_text(_SETUP, "utf-8")
    # The debugger's tables would else name a folder that is gone, another one in each build.
    mapped = f"-ffile-prefix-map={scratch}=."
    flags = f"{os.environ.get('CFLAGS', '')} {shlex.quote(mapped)}"
    paths = map(source_of, modules)
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-P", str(scratch / "setup.py"), str(scratch / "work"), *paths],
        cwd=tree, env=os.environ | {"CFLAGS": flags.strip(), "PYTHONPATH": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None  # a pipe was asked for
        for line in process.stdout:
            if line.endswith(" …\n"):
                say(line.rstrip())
            else:
                said.append(line)
    if process.returncode != 0:
        raise CompilingError("".join(said).strip() + "\nnothing was compiled; see the lines above.")
    for module in modules:
        if machine_code_of(tree, module) is None:
            raise CompilingError("".join(said).strip() + f"\nmypyc wrote no code for {module}.")


def machine_code_of(folder: Path, module: str) -> Path | None:
    """The file of a module's machine code in a folder of packages; None when there is none."""
    stem = folder / module.replace(".", "/")
    paths = (stem.with_name(stem.name + suffix) for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _held(folder: Path) -> dict[str, str]:
    """Every file of a folder by its hash, but the stamp and what running Python leaves."""
    return {
        path.relative_to(folder).as_posix(): _hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != STAMP and "__pycache__" not in path.parts
    }


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def build(root: Path, out: Path, say: Say) -> str:
    """Have ``out`` hold the project at ``root`` compiled; the sentence says what was done.

    Raises CompilingError; what was in ``out`` is then as it was.
    """
    started = time.monotonic()
    plan = Plan.of(root)
    require_toolchain(plan)
    count = f"{len(plan.modules)} modules"
    if is_fresh(out, plan):
        return f"{count} are compiled and up to date: {out}"
    compile_into(out.absolute(), plan, say)
    return f"{count} compiled in {time.monotonic() - started:.0f} s: {out}"


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when compilation fails, 2 when there is nothing to compile or no place for it,
    3 when the toolchain is not here."""
    parser = argparse.ArgumentParser(
        prog="python -m tierline_serving.compiling",
        description="Compile the modules that pyproject.toml names; instant when nothing changed.",
        epilog="example:\n  python -m tierline_serving.compiling\n"
        "  PYTHONPATH=build/compiled python -m tierline.cli edge serve shop-edge",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="the checkout (default: .)")
    parser.add_argument(
        "--out", type=Path, help="the folder to write (default: build/compiled in the checkout)"
    )
    options = parser.parse_args(argv)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with suppress(KeyboardInterrupt):
        try:
            say(build(options.root, options.out or options.root / "build" / "compiled", say))
            return BUILT
        except CompilingError as problem:
            say(str(problem))
            return problem.status
    return 130


if __name__ == "__main__":
    sys.exit(main())

"""Puts machine code into the wheel where its pinned compiler is installed.

Two parts, each by a command that has a process of its own, each decided by a variable:

``TIERLINE_CUBINS``: the CUDA kernels. Unset builds them where that is possible and else says why
not, ``skip`` leaves them out, ``all`` or a list such as ``9.0,12.0`` fails the build without them.
It takes minutes and no GPU.

``TIERLINE_COMPILED``: the modules a request passes. Unset as above, ``skip`` leaves them out,
``require`` fails the build without them. It takes a minute; the wheel is then for one platform and
one Python, and holds the sources beside.

What lies in build/cubins and build/compiled and still fits the sources is taken as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NO_TOOLCHAIN = 3  # what both commands exit with
LIBRARIES = (".so", ".pyd")


class Part(ABC):
    """Something built ahead; subclasses say what, and how it gets into the wheel."""

    name = variable = folder = ""
    wishes = ""  # what the variable may be, besides unset and skip: a pattern
    example = ""  # all of them in words
    instead = ""  # what happens where it is not in the wheel
    editable = ""  # why an editable install has none

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self._say = say

    def include(self, version: str, build_data: dict[str, Any]) -> None:
        """Add this part, or say why there is none. Raises RuntimeError when it cannot be built
        though it was asked for, or when what it is built from has a fault."""
        wish = os.environ.get(self.variable, "")
        if not re.fullmatch(rf"|skip|{self.wishes}", wish):
            raise RuntimeError(f"{self.variable} is {wish!r}; set {self.example}.")
        if version == "editable":
            self.say(self.editable)
            return
        if wish == "skip":
            self.say(f"left out as asked ({self.variable}=skip), {self.instead}")
            return
        status, sentence = self.build(self.root / "build" / self.folder, wish)
        if status == NO_TOOLCHAIN and not wish:
            self.say(f"not in this wheel, {self.instead}: {sentence}")
        elif status != 0:
            raise RuntimeError(f"no {self.name} for the wheel: {sentence}")
        else:
            self.say(sentence)
            self.add(self.root / "build" / self.folder, build_data)

    def say(self, sentence: str) -> None:
        self._say(f"{self.name}: {sentence}")

    @abstractmethod
    def build(self, folder: Path, wish: str) -> tuple[int, str]:
        """Exit status and last sentence of the build."""

    @abstractmethod
    def add(self, folder: Path, build_data: dict[str, Any]) -> None:
        """Name what was built to hatchling."""

    def run(self, module: str, source_root: str, *options: str) -> tuple[int, str]:
        """``python -m module`` from the sources of this checkout."""
        settings = {"PYTHONPATH": str(self.root / source_root), "NUMBA_ENABLE_CUDASIM": "0"}
        done = subprocess.run(
            [sys.executable, "-m", module, *options],
            env=os.environ | settings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = (done.stdout or done.stderr).strip()
        if done.returncode not in (0, NO_TOOLCHAIN):
            sys.stderr.write(f"{told}\n")  # the last sentence alone would not tell what to mend
        return done.returncode, told.rpartition("\n")[2]


class Cubins(Part):
    """Machine code of the CUDA kernels."""

    name, variable, folder = "CUDA machine code", "TIERLINE_CUBINS", "cubins"
    wishes, example = r"all|\d+\.\d(,\d+\.\d)*", "skip, all or 9.0,12.0"
    instead = "compiled on first use"
    editable = "a checkout holds none, its kernels are compiled on first use"

    def build(self, folder: Path, wish: str) -> tuple[int, str]:
        if find_spec("numba") is None:
            return NO_TOOLCHAIN, "numba is not installed; build without isolation, in .venv."
        capabilities = [] if wish in ("", "all") else wish.split(",")
        options = [part for each in capabilities for part in ("--capability", each)]
        module = "tierline_kernels.cuda.build"
        return self.run(module, "cuda_kernels", "--out", str(folder), *options)

    def add(self, folder: Path, build_data: dict[str, Any]) -> None:
        build_data["force_include"][str(folder)] = "tierline_kernels/cuda/cubins"


class Compiled(Part):
    """Machine code of the modules a request passes."""

    name, variable, folder = "compiled modules", "TIERLINE_COMPILED", "compiled"
    wishes, example = "require", "skip or require"
    instead = "interpreted instead"
    editable = "a checkout runs its sources; `make compiled` compiles them into build/compiled"

    def build(self, folder: Path, wish: str) -> tuple[int, str]:
        module, options = "tierline_serving.compiling", ("--root", str(self.root))
        return self.run(module, "serving", *options, "--out", str(folder))

    def add(self, folder: Path, build_data: dict[str, Any]) -> None:
        for path in sorted(folder.rglob("*")):
            if path.suffix in LIBRARIES:
                build_data["force_include"][str(path)] = path.relative_to(folder).as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


class MachineCode(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for every wheel, also for an editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add both parts, or say why one is not there. Raises RuntimeError as ``Part.include``."""
        for part in (Cubins, Compiled):
            part(Path(self.root), self.app.display_warning).include(version, build_data)

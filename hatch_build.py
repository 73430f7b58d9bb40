"""Puts the CUDA kernels' machine code into the wheel where the pinned compiler is installed.

``TIERLINE_CUBINS`` decides: unset builds it where that is possible and else says why not, ``skip``
leaves it out, ``all`` or a list such as ``9.0,12.0`` fails the build without it. It takes minutes
and no GPU. What lies in build/cubins and still fits the sources is taken as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NO_TOOLCHAIN = 3  # what tierline_kernels.cuda.build exits with
TARGET = "tierline_kernels/cuda/cubins"


class MachineCode(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for every wheel, also for an editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the machine code, or say why there is none. Raises RuntimeError when a kernel fails
        its gate, or when machine code that was asked for cannot be built."""
        wish = os.environ.get("TIERLINE_CUBINS", "")
        if not re.fullmatch(r"|skip|all|\d+\.\d(,\d+\.\d)*", wish):
            raise RuntimeError(f"TIERLINE_CUBINS is {wish!r}; set skip, all or 9.0,12.0.")
        if version == "editable":
            self._say("a checkout holds none, its kernels are compiled on first use")
            return
        if wish == "skip":
            self._say("left out as asked (TIERLINE_CUBINS=skip), compiled on first use")
            return
        folder = Path(self.root) / "build" / "cubins"
        status, sentence = self._build(folder, [] if wish in ("", "all") else wish.split(","))
        if status == NO_TOOLCHAIN and not wish:
            self._say(f"not in this wheel, compiled on first use: {sentence}")
        elif status != 0:
            raise RuntimeError(f"no machine code for the wheel: {sentence}")
        else:
            self._say(sentence)
            build_data["force_include"][str(folder)] = TARGET

    def _build(self, folder: Path, capabilities: list[str]) -> tuple[int, str]:
        """Exit status and last sentence of the build, which has a process of its own."""
        if find_spec("numba") is None:
            return NO_TOOLCHAIN, "numba is not installed; build without isolation, in .venv."
        options = [part for each in capabilities for part in ("--capability", each)]
        settings = {
            "PYTHONPATH": str(Path(self.root) / "cuda_kernels"),
            "NUMBA_ENABLE_CUDASIM": "0",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tierline_kernels.cuda.build", "--out", str(folder), *options],
            env=os.environ | settings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = (done.stdout or done.stderr).strip()
        return done.returncode, told.rpartition("\n")[2]

    def _say(self, sentence: str) -> None:
        self.app.display_warning(f"CUDA machine code: {sentence}")

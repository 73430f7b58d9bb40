"""FastAPI with JSON-free binary bodies is measured always; products come from their own installs.

``run.py --peers litserve`` makes an environment below ``.venvs/`` of the checkout (git ignores it),
installs the product there and measures it in the same run. The products of the issue's table that
need a JVM, containers or a cluster (TorchServe, Triton, Ray Serve) are not installed here: their
figures of another machine are in the reference notes and are compared by ratio only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import load
from workloads import Workload

HERE = Path(__file__).resolve().parent
VENVS = HERE.parent.parent / ".venvs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How to install, start and ask one product."""

    packages: tuple[str, ...]
    script: str
    body: Callable[[Workload], bytes]
    path: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def python(self) -> Path:
        """The interpreter of its own environment."""
        return VENVS / f"serving-{self.script.removesuffix('_peer.py')}" / "bin" / "python"

    def install(self) -> None:
        """Make the environment, unless it is there."""
        if self.python.exists():
            return
        folder = self.python.parent.parent
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = [*self.packages, "onnxruntime==1.31.1", "numpy<3"]
        subprocess.run([str(self.python), "-m", "pip", "install", "-q", *wanted], check=True)

    def command(self, workload: Workload) -> list[str]:
        """What starts it."""
        return [str(self.python), str(HERE / self.script), workload.name, str(workload.onnx)]

    def message(self, workload: Workload) -> bytes:
        """One request's bytes."""
        return load.post(self.path, self.body(workload), dict(self.headers))


def _json(workload: Workload) -> bytes:
    query, rows = workload.arrays()
    arrays = {**query, **rows}
    return json.dumps({name: array.tolist() for name, array in arrays.items()}).encode()


PEERS = {
    "litserve": Peer(
        packages=("litserve==0.2.19",),
        script="litserve_peer.py",
        body=_json,
        path="/predict",
        headers=(("content-type", "application/json"),),
    ),
}

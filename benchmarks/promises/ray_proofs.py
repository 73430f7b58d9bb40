"""Runs the tests on a real Ray with the interpreter that has it: RAY_PYTHON, or this one.

Prints what proofs.py prints. Without Ray it ends with exit code 1, and nothing is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROOFS = Path(__file__).with_name("proofs.py")
TESTS = "tests/cloud/ray/test_real_ray.py"


def main() -> int:
    """Run them; returns the exit code of proofs.py."""
    python = os.environ.get("RAY_PYTHON", sys.executable)
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ray') is None)"
    if subprocess.run([python, "-c", check], check=False).returncode:
        sys.stderr.write(f"{python} has no Ray; name one that has it in RAY_PYTHON (docs/ray.md)\n")
        return 1
    return subprocess.run([python, str(PROOFS), TESTS], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

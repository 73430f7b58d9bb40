"""The examples are scripts, not packages: their folders join the path as they do when run."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
for folder in (EXAMPLES, EXAMPLES / "shop_demo"):
    sys.path.insert(0, str(folder))

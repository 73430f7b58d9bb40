"""The examples are scripts, not packages: their folders join the path as they do when run."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
for folder in (EXAMPLES, EXAMPLES / "shop_demo", HERE):
    sys.path.insert(0, str(folder))

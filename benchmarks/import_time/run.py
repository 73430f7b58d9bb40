"""Times `import tierline` beyond numpy's own import, with only its four dependencies importable.

Each repeat is a fresh interpreter without site packages' start-up files; a finder in front of all
others hides every package but those four and what they require. Prints the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
DEPENDENCIES = ("httpx", "msgpack", "numpy", "tenacity")
HEAVY = ("torch", "onnxruntime", "numba", "fastapi", "uvicorn", "rich", "cryptography")

CHILD = """
import json, sys, time
allowed, sys.path[1:1] = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])

class OnlyDependencies:
    # Raises what Python raises in an environment that lacks the package.
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed or top in sys.stdlib_module_names:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyDependencies())
began = time.perf_counter()
import numpy
numpy_done = time.perf_counter()
numpy_cpu = time.process_time()
import tierline
done, done_cpu = time.perf_counter(), time.process_time()
for name in tierline.__all__:
    getattr(tierline, name)
print(json.dumps({
    "numpy_ms": (numpy_done - began) * 1e3,
    "beyond_numpy_ms": (done - numpy_done) * 1e3,
    "beyond_numpy_cpu_ms": (done_cpu - numpy_cpu) * 1e3,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names),
}))
"""


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/import_time/run.py --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=7, help="fresh interpreters timed")
    parser.add_argument("--json", metavar="-", default="", help="- prints the figures as JSON")
    options = parser.parse_args()
    _run_once()  # warm-up: byte code and page cache
    runs = [_run_once() for _ in range(options.repeats)]
    figures = _figures(runs)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        print(
            f"import tierline: {figures['beyond_numpy_ms']:.0f} ms beyond numpy's "
            f"{figures['numpy_ms']:.0f} ms (median of {options.repeats}, worst "
            f"{figures['beyond_numpy_worst_ms']:.0f} ms; {figures['beyond_numpy_cpu_ms']:.0f} ms "
            f"of CPU); "
            f"heavy packages loaded: "
            f"{figures['heavy_loaded']}"
        )
    return 0


def _run_once() -> dict[str, object]:
    allowed = [*_importable(DEPENDENCIES), "tierline"]
    paths = [str(ROOT / "sdk"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    command = [sys.executable, "-I", "-S", "-c", CHILD, json.dumps(allowed), json.dumps(paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise SystemExit(f"`import tierline` failed with only its dependencies:\n{done.stderr}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


def _importable(names: tuple[str, ...]) -> list[str]:
    """The import names of these distributions and of all they require, without extras."""
    wanted, queue = set[str](), [canonicalize_name(name) for name in names]
    while queue:
        name = queue.pop()
        if name in wanted:
            continue
        wanted.add(name)
        needed = [Requirement(line) for line in requires(name) or ()]
        queue += [
            canonicalize_name(requirement.name)
            for requirement in needed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return sorted(
        package
        for package, owners in packages_distributions().items()
        if wanted & {canonicalize_name(owner) for owner in owners}
    )


def _figures(runs: list[dict[str, object]]) -> dict[str, object]:
    beyond = [float(str(run["beyond_numpy_ms"])) for run in runs]
    loaded = {str(name) for run in runs for name in _names(run["loaded"])}
    return {
        "beyond_numpy_ms": statistics.median(beyond),
        "beyond_numpy_cpu_ms": statistics.median(
            float(str(run["beyond_numpy_cpu_ms"])) for run in runs
        ),
        "beyond_numpy_worst_ms": max(beyond),
        "numpy_ms": statistics.median(float(str(run["numpy_ms"])) for run in runs),
        "heavy_loaded": len(loaded & set(HEAVY)),
        "loaded": sorted(loaded),
    }


def _names(found: object) -> list[object]:
    assert isinstance(found, list)
    return found


if __name__ == "__main__":
    sys.exit(main())

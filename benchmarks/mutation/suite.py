"""Runs chosen tests of the core in one process, in a chosen order, and says which one failed.

``python suite.py ORDER.json``: the tests' names, in order; null runs them all, and then what each
took and which lines of the core it reached are written too. The last line is what came of it, as
JSON. Hypothesis makes no failing example smaller here: that one failed is enough.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = (
    "tests/sdk/core",
    *sorted(f"tests/sdk/{path.name}" for path in ROOT.glob("tests/sdk/test_sov*.py")),
    "tests/contract/shells",
    "tests/simulation",
)
LEFT_OUT = "tests/simulation/test_planted_bugs.py"  # tests of the tests
SEEDS = "tests/simulation/test_seeds.py"  # the one slow test that is run, with few seeds
MEMORY = 8 << 30  # bytes; a change that asks for ever more is noticed, and not by the machine


class Chosen:
    """Runs these tests only, in this order, and remembers the first that failed."""

    def __init__(self, order: list[str] | None) -> None:
        self._rank = None if order is None else {name: i for i, name in enumerate(order)}
        self.failed: str | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        from hypothesis import Phase, settings  # pytest wants to be its first importer

        quick = (Phase.explicit, Phase.generate)
        settings.register_profile("first", settings.get_profile("gate"), phases=quick)
        settings.load_profile("first")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        rank = self._rank
        if rank is None:
            quick = (i for i in items if SEEDS in i.nodeid or not i.get_closest_marker("slow"))
            items[:] = list(quick)
        else:
            chosen = [item for item in items if item.nodeid in rank]
            items[:] = sorted(chosen, key=lambda item: rank[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid


class Map:
    """What each test took, and which lines of the core it reached."""

    def __init__(self) -> None:
        package = find_spec("tierline")
        assert package is not None, "the core must be found before it is imported"
        assert package.origin is not None, "and as a file"
        core = Path(package.origin).parent / "_core"
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{core}/*"], check_preimported=False
        )
        self._seconds: dict[str, float] = {}
        self._coverage.start()
        for path in sorted(core.glob("*.py")):  # now, so that no test seems to import it
            import_module(f"tierline._core.{path.stem}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        started = time.monotonic()
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")
            self._seconds[item.nodeid] = round(time.monotonic() - started, 4)

    def figures(self) -> dict[str, Any]:
        """``seconds`` by test, ``reached`` by test (module → lines), ``imported`` (likewise)."""
        self._coverage.stop()
        data = self._coverage.get_data()
        reached: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for path in data.measured_files():
            for line, names in data.contexts_by_lineno(path).items():
                for name in names:
                    reached[name][Path(path).name].append(line)
        imported = reached.pop("", {})
        return {"seconds": self._seconds, "reached": reached, "imported": imported}


def main(order: list[str] | None) -> int:
    """Run them; returns pytest's exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    chosen, figures = Chosen(order), {}
    paths = FOLDERS if order is None else tuple(sorted({name.split("::")[0] for name in order}))
    options = ["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-m", "not nightly"]
    options += ["-p", "no:pytest_cov", "-p", "no:xdist", "--ignore", LEFT_OUT]
    if order is None:
        mapped = Map()
        code = pytest.main([*options, *paths], plugins=[chosen, mapped])
        figures = mapped.figures()
    else:
        code = pytest.main([*options, *paths], plugins=[chosen])
    sys.stdout.write("\n" + json.dumps({"failed": chosen.failed, **figures}) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text("utf-8"))))

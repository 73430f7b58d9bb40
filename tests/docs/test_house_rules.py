"""The house rules that a machine can check (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "sdk/tierline",
    "serving/tierline_serving",
    "edge_runtime/tierline_edge",
    "cloud_runtime/tierline_cloud",
    "cuda_kernels/tierline_kernels",
    "drills/tierline_drills",
)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(
    path for root in ("examples", "benchmarks") for path in (ROOT / root).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
# Reading any of these runs what the file says; dill, joblib and cloudpickle are pickle in disguise.
BANNED_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


def name_of(path: Path) -> str:
    """The path as a person in the checkout writes it."""
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def test_there_are_sources_to_check() -> None:
    assert len(SOURCES) > 50


def test_a_module_opens_by_saying_what_it_decides_or_does() -> None:
    silent = {name_of(p) for p in SOURCES + SCRIPTS if not ast.get_docstring(tree_of(p))}
    assert silent == set()


def test_files_fit_in_one_sitting() -> None:
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES + SCRIPTS}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_fit_on_a_screen() -> None:
    too_long = {
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in SOURCES + SCRIPTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert too_long == set()


def test_no_module_is_named_after_nothing() -> None:
    assert {name_of(path) for path in SOURCES if path.stem.strip("_") in BANNED_NAMES} == set()


def test_nothing_is_unpickled() -> None:
    found = set()
    for path in SOURCES + SCRIPTS:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            else:
                continue
            found |= {f"{name_of(path)}: {name}" for name in names & BANNED_IMPORTS}
    assert found == set()


def test_no_handler_is_bare() -> None:
    bare = {
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES + SCRIPTS + TESTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    }
    assert bare == set()


def test_test_names_are_sentences() -> None:
    short = {
        f"{name_of(path)}: {node.name}"
        for path in TESTS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and node.name.count("_") < 2
    }
    assert short == set()

"""What the documents show, runs; what they link, exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE_ROOTS = ("sdk", "serving", "edge_runtime", "cloud_runtime", "cuda_kernels", "drills")
OTHER_ROOTS = ("examples", "tests", "benchmarks", "docs")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / root / "README.md" for root in (*SOURCE_ROOTS, *OTHER_ROOTS)),
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"),
]

FENCE = re.compile(r"^```python\s*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!--\s*not run:\s*\S.*?-->\s*\Z", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


class Block(NamedTuple):
    """A python block of a document, where it stands, and whether it is to run."""

    where: str
    code: str
    runs: bool


def blocks_of(path: Path) -> list[Block]:
    """The document's python blocks; those under ``<!-- not run: reason -->`` are not to run."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        where = f"{path.parent.name}/{path.name}:{before.count(chr(10)) + 1}"
        found.append(Block(where, match[1], NOT_RUN.search(before) is None))
    return found


BLOCKS = [block for path in DOCUMENTS if path.exists() for block in blocks_of(path)]


@pytest.fixture(scope="module")
def example_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edge bundle that the bring-your-own example packs."""
    folder = tmp_path_factory.mktemp("bundle")
    code = "import sys; from pathlib import Path; from pack import pack; print(pack(Path('.'))[0])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples" / "bring_your_own")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.runs], ids=lambda block: block.where)
def test_the_documents_python_blocks_run(
    block: Block, tmp_path: Path, example_bundle: Path
) -> None:
    environment = {**os.environ, "TIERLINE_EXAMPLE_BUNDLE": str(example_bundle)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.where}\n{block.code}\n{done.stderr}"


@pytest.mark.slow
def test_the_documents_python_blocks_use_the_api_as_it_is_typed(tmp_path: Path) -> None:
    # Also those that cannot run here: mypy still knows every name and argument in them.
    files = []
    for number, block in enumerate(BLOCKS):
        files.append(tmp_path / f"block_{number}.py")
        files[-1].write_text(f"# {block.where}\n{block.code}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *map(str, files)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert files
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documents_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("root", [*SOURCE_ROOTS, *OTHER_ROOTS])
def test_every_root_folder_has_a_readme(root: str) -> None:
    first, *_ = (ROOT / root / "README.md").read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")


@pytest.mark.parametrize(
    "target", ["demo", "test", "check", "nightly", "drills", "promises", "setup", "clean"]
)
def test_make_without_a_target_names_each_target(target: str) -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    assert re.search(rf"^  make {target} +\S.*\.$", done.stdout, re.MULTILINE)


def test_a_block_under_a_not_run_comment_does_not_run_and_its_neighbour_does(
    tmp_path: Path,
) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "<!-- not run: needs a network -->\n```python\nfirst\n```\n\nText.\n\n"
        "```python\nsecond\n```\n",
        encoding="utf-8",
    )
    first, second = blocks_of(document)
    assert (first.code, first.runs) == ("first\n", False)
    assert (second.code, second.runs) == ("second\n", True)
    assert second.where.endswith("page.md:8")

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
DOCUMENTS = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
    if path.exists()
]
SOURCE_ROOTS = ("sdk", "serving", "edge_runtime", "cloud_runtime", "cuda_kernels")
OTHER_ROOTS = ("examples", "tests", "benchmarks", "docs")

PAGES = [ROOT / root / "README.md" for root in (*SOURCE_ROOTS, *OTHER_ROOTS)]
LINKING = list(dict.fromkeys([*DOCUMENTS, *PAGES]))

FENCE = re.compile(r"^```python\s*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!--\s*not run:\s*\S.*?-->\s*\Z", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


class Block(NamedTuple):
    """A python block of a document that is to run, and where it stands."""

    where: str
    code: str


def blocks_to_run(path: Path) -> list[Block]:
    """The document's python blocks, without those under ``<!-- not run: reason -->``."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        if not NOT_RUN.search(text[: match.start()]):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(f"{path.name}:{line}", match[1]))
    return found


RUNNABLE = [block for document in DOCUMENTS for block in blocks_to_run(document)]


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.where)
def test_the_documents_python_blocks_run(
    block: Block, tmp_path: Path, example_bundle: Path
) -> None:
    environment = {**os.environ, "TIERLINE_EXAMPLE_BUNDLE": str(example_bundle)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.where}\n{block.code}\n{done.stderr}"


@pytest.mark.parametrize("document", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documents_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("root", [*SOURCE_ROOTS, *OTHER_ROOTS])
def test_every_root_folder_has_a_readme(root: str) -> None:
    first, *_ = (ROOT / root / "README.md").read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")


@pytest.mark.parametrize(
    "target", ["demo", "test", "check", "nightly", "promises", "setup", "clean"]
)
def test_make_without_a_target_names_each_target(target: str) -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    assert re.search(rf"^  make {target} +\S.*\.$", done.stdout, re.MULTILINE)


def test_a_block_under_a_not_run_comment_is_left_out_and_its_neighbour_is_not(
    tmp_path: Path,
) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "<!-- not run: needs a network -->\n```python\nfirst\n```\n\nText.\n\n"
        "```python\nsecond\n```\n",
        encoding="utf-8",
    )
    assert blocks_to_run(document) == [Block("page.md:8", "second\n")]

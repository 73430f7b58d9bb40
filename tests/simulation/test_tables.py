"""docs/resilience.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierline.testing.faults import FaultKind
from tierline.testing.tables import breaker_table, with_tables


def test_the_tables_of_the_page_are_current(repository: Path) -> None:
    page = (repository / "docs" / "resilience.md").read_text("utf-8")
    assert with_tables(page) == page, "run python -m tierline.testing.tables docs/resilience.md"


def test_the_page_knows_how_many_faults_there_are(repository: Path) -> None:
    page = (repository / "docs" / "resilience.md").read_text("utf-8")
    assert f"({len(FaultKind)}\nkinds;" in page


def test_the_breakers_table_has_every_edge() -> None:
    rows = [line.split(" | ") for line in breaker_table().splitlines()[2:]]
    edges = {(row[0].strip("| "), row[2].strip("*| ")) for row in rows if "**" in row[2]}
    assert edges == {
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("half_open", "closed"),
    }


def test_a_page_without_its_block_is_refused() -> None:
    with pytest.raises(ValueError, match="one block"):
        with_tables("# A page about something else")

"""Several runs of one drill told as one, whose figures are known."""

from __future__ import annotations

import logs
import pytest

from tierline_drills.page import Chapter, page
from tierline_drills.repeats import pooled
from tierline_drills.report import Report, report
from tierline_drills.statistics import wilson


def runs(*failed: int) -> list[Report]:
    return [report(logs.crash(failed=count)) for count in failed]


def test_counts_are_summed_and_shares_are_of_all_calls() -> None:
    found = pooled(runs(0, 3, 0))["availability"]
    assert (found["offered"], found["failed"]) == (1800, 3)
    assert found["any"] == pytest.approx(1 - 3 / 1800)
    assert found["any_interval"] == wilson(1797, 1800)


def test_the_longest_recovery_counts_and_a_run_without_one_is_not_hidden() -> None:
    one, two = runs(0, 0)
    two["recovery"]["mttr"] = 9.0
    assert pooled([one, two])["recovery"]["mttr"] == 9.0
    two["recovery"]["mttr"] = None
    assert pooled([one, two])["recovery"]["mttr"] is None
    assert pooled([one, two])["values"]["recovery.mttr"] == [6.0, None]


def test_one_run_that_did_not_pass_is_enough() -> None:
    one, two = runs(0, 0)
    two["passed"] = False
    found = pooled([one, two])
    assert (found["passed"], found["passed_runs"]) == (False, 1)


def test_the_page_tells_each_run_and_the_pooled_rate() -> None:
    first, *others = runs(0, 3, 0)
    text = page("Drills", [Chapter(report=first, repeats=tuple(others))])
    assert "3 of 1800 calls failed" in text
    assert "<th>run 3</th>" in text

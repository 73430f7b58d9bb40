"""The figures say what the outcomes say, and the table leaves nothing out."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from faults import Event
from load import Outcome, ndcg
from report import PASSES, answers_again, draw, figures_of, table_of, timeline_of
from rich.console import Console

from tierline import Attempt


def attempt(kind: str, tier: str) -> Attempt:
    return Attempt(1, kind, tier, f"http://{tier}", 0.0, 0.01, "ok")


OUTCOMES = [
    Outcome(at=0.0, elapsed=0.010, caller="threads", tier="edge", quality="edge",
            reason="certain", gain=1.0, attempts=(attempt("first", "edge"),)),
    Outcome(at=0.1, elapsed=0.030, caller="asyncio", tier="cloud", quality="full",
            reason="escalated", gain=0.5,
            attempts=(attempt("first", "edge"), attempt("escalation", "cloud"))),
    Outcome(at=0.2, elapsed=0.020, caller="threads", tier="edge", quality="degraded",
            reason="cloud_failed", gain=0.0,
            attempts=(attempt("first", "edge"), attempt("escalation", "cloud"))),
    Outcome(at=0.3, elapsed=0.250, caller="asyncio", failure="Unavailable: nobody"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("items", "gain"), [([7, 8], 1.0), ([8, 7], 1 / math.log2(3)), ([8, 9], 0.0), ([], 0.0)]
)
def test_ndcg_falls_with_the_rank_of_the_one_relevant_item(items: list[int], gain: float) -> None:
    assert ndcg(items, 7) == pytest.approx(gain)


def test_figures_count_tiers_escalations_degradations_and_failures() -> None:
    figures = figures_of(OUTCOMES)
    assert figures["ndcg@10"] == pytest.approx(1.5 / 4)  # a failed call gains nothing
    assert {tier: seen["answers"] for tier, seen in figures["tiers"].items()} == {
        "edge": 2, "cloud": 1, "client": 0,
    }  # fmt: skip
    assert figures["tiers"]["cloud"]["p50_ms"] == 30.0
    assert figures["escalations"] == {"sent": 2, "answered by cloud": 1}
    assert figures["degraded by reason"] == {"cloud_failed": 1}
    assert figures["failures"] == {"Unavailable: nobody": 1}
    assert json.loads(json.dumps(figures)) == figures


def test_the_table_shows_what_happened_in_any_of_the_passes() -> None:
    only_edge = figures_of([OUTCOMES[0]])
    only_cloud = figures_of([OUTCOMES[1]])
    passes = dict(zip(PASSES, (only_edge, figures_of(OUTCOMES), only_cloud), strict=True))
    out = io.StringIO()
    Console(file=out, width=110).print(table_of(passes, "title"))
    text = out.getvalue()
    for word in ("NDCG@10", "answered by cloud", "escalations", "cloud_failed", "failed calls"):
        assert word in text


def test_recovery_is_the_first_good_answer_to_a_call_made_after_the_repair() -> None:
    events = [Event(at=0.05, label="cloud restored")]
    found = answers_again(OUTCOMES, events, after="cloud restored", endpoint="http://cloud")
    assert found == pytest.approx((0.11, 0.06))
    assert answers_again(OUTCOMES, events, after="cloud restored", endpoint="http://x") is None


def test_the_timeline_is_one_line_in_order() -> None:
    events = [Event(at=1.04, label="cloud cut"), Event(at=2.0, label="cloud restored")]
    assert timeline_of(events) == "1.0 s cloud cut · 2.0 s cloud restored"


@pytest.mark.slow
def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(tmp_path / "t.png", OUTCOMES, [Event(at=0.15, label="cloud cut")], "four calls")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")

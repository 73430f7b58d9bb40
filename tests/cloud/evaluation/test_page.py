"""Gates to compare with, prices, and the page and pictures made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tierline import ConfigurationError
from tierline_cloud.data import Sequences
from tierline_cloud.evaluation.gates import ORACLE, OURS, RANDOM, compare_gates, list_signals
from tierline_cloud.evaluation.prices import Prices, read_prices
from tierline_cloud.evaluation.ranking import Ranking

RNG = np.random.default_rng(3)
USERS, ITEMS = 600, 60


def _pair() -> tuple[Ranking, Ranking, np.ndarray[Any, np.dtype[np.float64]]]:
    """An edge that serves some of the cloud's lists and forgets some of their items."""
    full = np.array([RNG.permutation(ITEMS)[:10] + 1 for _ in range(USERS)])
    wrong = RNG.random(USERS)
    fast = np.where(RNG.random((USERS, 10)) < wrong[:, None] / 2, ITEMS + 1, full)
    ranks = RNG.integers(1, 25, size=USERS)
    worse = np.where(RNG.random(USERS) < wrong / 2, 100, ranks)
    return Ranking(ranks=worse, top=fast), Ranking(ranks=ranks, top=full), wrong


def test_a_gate_that_knows_is_better_than_chance_and_worse_than_the_oracle() -> None:
    edge, cloud, wrong = _pair()
    rows, curves = compare_gates(edge, cloud, wrong, {"nonsense": RNG.random(USERS)})
    by_name = {row.name: row for row in rows}
    assert list(by_name) == [OURS, "nonsense", RANDOM, ORACLE]
    assert by_name[ORACLE].area_over_random < by_name[OURS].area_over_random < 0.9
    assert by_name[RANDOM].area_over_random == pytest.approx(1.0, abs=0.06)
    assert by_name["nonsense"].area_over_random == pytest.approx(1.0, abs=0.06)
    assert by_name[OURS].escalation_at_99 < by_name[RANDOM].escalation_at_99
    assert set(curves) == set(by_name)


def test_the_signals_are_what_their_names_say() -> None:
    scores = RNG.normal(size=(5, ITEMS + 1)).astype(np.float32)
    histories = Sequences.from_lists([[1], [], [2, 3], [4, 4, 4], [5]], n_items=ITEMS)
    found = list_signals(lambda users: scores[users], histories)
    for user in range(5):
        seen = {0, *histories.of(user).tolist()}
        best = sorted((float(s) for i, s in enumerate(scores[user]) if i not in seen), reverse=True)
        head = np.array(best[:50])
        assert found["top score"][user] == pytest.approx(-head[0])
        assert found["margin at 10"][user] == pytest.approx(
            -(head[9] - head[10]) / head.std(), rel=1e-5
        )
        assert found["margin at 1"][user] == pytest.approx(
            -(head[0] - head[1]) / head.std(), rel=1e-5
        )
        shares = np.exp(head) / np.exp(head).sum()
        assert found["entropy"][user] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert found["history"].tolist() == [1, 0, 2, 3, 1]


def test_a_thousand_calls_cost_the_edge_and_what_is_escalated(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        'currency = "EUR"\nedge_call = 1e-6\ncloud_call = 1e-5\nseconds_waited = 0.1\n'
        "per_second = 1e-5\nbytes_sent = 1000\nper_byte = 1e-9\n"
    )
    prices = read_prices(file)
    assert prices.escalated == pytest.approx(1e-5 + 1e-6 + 1e-6)
    assert prices.per_thousand(0.5) == pytest.approx(1000 * (1e-6 + 0.5 * 1.2e-5))
    assert prices.cloud_only == pytest.approx(0.012)
    assert Prices().per_thousand(0.25) == 250


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("edge_call = -1", "edge_call"),
        ("edge_call = true", "edge_call"),
        ("currency = 5", "currency"),
        ("cloud_call = 0", "cloud_call"),
        ("cloud_call = inf", "cloud_call"),
        ("cents = 1", "cents"),
        ("not toml", "--prices"),
    ],
)
def test_a_price_file_that_makes_no_sense_is_refused_by_its_key(
    tmp_path: Path, text: str, key: str
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read_prices(file)
    assert key in str(refused.value)

"""SASRec's meaning: padding is nothing, order and position count, the last state is the last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any  # a parameter of each type

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.models.edge import EdgeModel
from tierline_cloud.models.sasrec import POSITIONS, SASRec, SASRecConfig

CONFIG = SASRecConfig(n_items=30, dim=8, blocks=2, heads=2, max_history=6, dropout=0.3)


@pytest.fixture(scope="module", params=POSITIONS)
def model(request: pytest.FixtureRequest) -> SASRec:
    torch.manual_seed(5)
    return SASRec(replace(CONFIG, positions=request.param)).eval()


@given(st.sampled_from(POSITIONS), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_padding_on_the_left_changes_nothing(positions: str, history: list[int]) -> None:
    torch.manual_seed(5)
    model = SASRec(replace(CONFIG, positions=positions)).eval()
    bare = model.hidden(torch.tensor([history]))
    padded = model.hidden(torch.tensor([[0] * (6 - len(history)) + history]))
    torch.testing.assert_close(bare, padded, atol=1e-5, rtol=1e-5)


def test_the_last_state_is_the_last_of_all_states(model: SASRec) -> None:
    ids = torch.tensor([[0, 0, 4, 9, 2, 7], [1, 2, 3, 4, 5, 6]])
    torch.testing.assert_close(model.hidden(ids), model.all_states(ids)[:, -1])


def test_a_state_does_not_see_what_comes_later(model: SASRec) -> None:
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 9]])
    early = [model.all_states(ids)[:, :3] for ids in (first, second)]
    torch.testing.assert_close(early[0], early[1])


def test_order_matters(model: SASRec) -> None:
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 2, 1, 4]])
    assert (model.hidden(first) - model.hidden(second)).abs().max() > 1e-3


def test_with_relative_positions_every_place_answers_as_the_last_would() -> None:
    torch.manual_seed(5)
    model = SASRec(replace(CONFIG, positions="relative")).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    for place in range(6):
        alone = model.hidden(ids[:, : place + 1])
        torch.testing.assert_close(model.all_states(ids)[:, place], alone, atol=1e-5, rtol=1e-5)


def test_an_empty_history_gives_a_finite_state_and_uncertainty(model: SASRec) -> None:
    hidden, uncertainty = EdgeModel(model).eval()(torch.zeros(2, 6, 8), torch.zeros(2, 6))
    assert torch.isfinite(hidden).all()
    assert ((uncertainty > 0) & (uncertainty < 1)).all()


def test_the_padding_row_is_zero(model: SASRec) -> None:
    assert not model.table[0].any()


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_config_survives_json(positions: str) -> None:
    config = replace(CONFIG, positions=positions)
    assert SASRecConfig(**config.to_json()) == config  # type: ignore[arg-type]


def test_absolute_positions_go_without_saying() -> None:
    assert "positions" not in CONFIG.to_json()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"heads": 3}, "must divide"),
        ({"n_items": 0}, "n_items"),
        ({"dropout": 1.0}, "dropout"),
        ({"positions": "none"}, "is none of absolute, relative"),
    ],
)
def test_an_impossible_shape_is_refused(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        SASRecConfig(**({"n_items": 5, "dim": 8} | wrong))

"""The factory's edge with part of the catalogue: what it carries, and that all see the same."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tierline.wire import ScoreRequest
from tierline_cloud.bundles import write_bundles
from tierline_cloud.carrying import carried_neighbours, lost_shares
from tierline_cloud.evaluating import EvaluateOptions, serve
from tierline_cloud.evaluation import Ranking
from tierline_cloud.factory import Factory, Source
from tierline_cloud.gates import require_publishable
from tierline_cloud.recipes import Recipe
from tierline_cloud.tables import train_table
from tierline_cloud.training.console import Console
from tierline_edge.scorer import load_scorer
from tierline_serving.bundle import Bundle

SHARE = 0.6
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def partial(
    factory: Factory, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Factory:
    """The tiny factory once more, its networks kept, for an edge with part of the items."""
    out = tmp_path_factory.mktemp("partial") / "run"
    shutil.copytree(factory.out, out)
    said = io.StringIO()
    made = Factory(Source(path=None), replace(tiny_recipe, carried=SHARE), out, Console(said))
    made.report()
    assert "cloud: done before, kept" in said.getvalue()
    assert "carried: done in" in said.getvalue()
    return made


@pytest.fixture(scope="module")
def pair(partial: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("pair")
    return write_bundles(partial, model="ranker", destination=folder, signer=None, now=NOW)


def test_the_most_popular_items_are_carried(partial: Factory) -> None:
    assert partial.carried is not None
    popular = partial.split.train.popularity()[1:]
    ids = partial.carried.ids.astype(np.int64)
    assert ids.size == round(SHARE * popular.size)
    others = np.setdiff1d(np.arange(1, popular.size + 1), ids)
    assert popular[ids - 1].min() >= popular[others - 1].max()


def test_an_item_has_lost_the_largest_share_that_one_missing_neighbour_has(
    partial: Factory,
) -> None:
    assert partial.carried is not None
    served = partial.served.neighbours
    assert served is not None
    ids, knn = partial.carried.ids.astype(np.int64), served.knn
    found = lost_shares(knn, ids)
    for item in range(1, knn.n_items + 1):
        span = slice(knn.starts[item], knn.starts[item + 1])
        weights = knn.weights[span].astype(np.float64)
        missing = ~np.isin(knn.neighbours[span], ids)
        expected = (weights * missing).max() / weights.sum() if weights.size else 0.0
        assert found[item] == pytest.approx(expected)
    assert found.max() > 0


def test_a_pair_of_neighbours_is_carried_when_both_items_are(partial: Factory) -> None:
    whole, part = partial.neighbours, partial.carried
    assert whole is not None
    assert part is not None
    cut = carried_neighbours(whole, part)
    assert 0 < cut.ids.size < whole.ids.size
    for row, item in enumerate(part.ids.astype(np.int64).tolist(), 1):
        span = slice(whole.starts[item], whole.starts[item + 1])
        expected = [
            (part.rows_of(np.array([near]))[0], code)
            for near, code in zip(whole.ids[span], whole.codes[span], strict=True)
            if near in part.ids
        ]
        mine = slice(cut.starts[row], cut.starts[row + 1])
        assert list(zip(cut.ids[mine], cut.codes[mine], strict=True)) == expected
    assert cut.starts[-1] == cut.starts[part.stand_in]


def test_about_the_wanted_share_lost_too_much_and_those_are_escalated(partial: Factory) -> None:
    part, wanted = partial.carried, partial.recipe.escalation
    assert part is not None
    lost = part.lost_of(list(partial.split.test_history))
    above = lost > part.above
    assert above[partial.groups.router].mean() == pytest.approx(wanted, abs=0.05)
    doubts = partial.uncertainty
    assert doubts[above].min() > doubts[~above].max()


def test_a_node_answers_what_the_pair_was_judged_by(
    partial: Factory, pair: dict[str, Bundle]
) -> None:
    judged = Ranking.load(partial.quantized.folder / "test")
    part, histories = partial.carried, partial.split.test_history
    assert part is not None
    users = partial.groups.report[:40]
    requests = [
        ScoreRequest(model="ranker", query={"history": histories.of(int(user))}, k=10)
        for user in users
    ]
    scorer = load_scorer(pair["edge"], threads=1)
    same = 0
    for user, reply in zip(users, scorer.score(requests), strict=True):
        assert reply.items is not None
        assert set(reply.items.tolist()) <= set(part.ids.tolist())
        assert reply.uncertainty == pytest.approx(partial.uncertainty[user], abs=1e-6)
        same += reply.items.tolist() == judged.top[user].tolist()
    assert same >= 0.95 * len(users)  # float32 ties of int8 products may fall otherwise
    require_publishable(pair["edge"])


def test_evaluate_finds_the_same_from_the_bundles_alone(
    partial: Factory, pair: dict[str, Bundle]
) -> None:
    options = EvaluateOptions(
        edge=pair["edge"].path, cloud=pair["cloud"].path, data=partial.out / "synthetic.txt",
        kind=None, keys=(), allow_unsigned=True, threads=1,
    )  # fmt: skip
    served = serve(options)
    judged = Ranking.load(partial.quantized.folder / "test")
    assert served.fast.ranks.tolist() == judged.ranks.tolist()
    np.testing.assert_allclose(served.uncertainty, partial.uncertainty, atol=1e-6)


def test_a_missing_target_is_a_miss(partial: Factory) -> None:
    assert partial.carried is not None
    targets, ranks = (
        partial.split.test_target,
        Ranking.load(partial.quantized.folder / "test").ranks,
    )
    missing = ~np.isin(targets, partial.carried.ids)
    assert missing.any()
    assert (ranks[missing] > 10).all()


def test_the_table_of_a_run_says_what_the_edge_carries(partial: Factory, factory: Factory) -> None:
    part = partial.report()["carried"]
    document = {"certificate": {"refused": "-"}, "bundles": {}}
    said = train_table({**document, "stages": partial.report()})
    assert f"the edge carries {part['items']:,} of 160 items" in said
    assert "the edge carries" not in train_table({**document, "stages": factory.report()})


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(tiny_recipe: Recipe, share: float) -> None:
    with pytest.raises(ValueError, match="carried must be above 0 and at most 1"):
        replace(tiny_recipe, carried=share)


def test_the_table_is_smaller_by_what_is_not_carried(partial: Factory, factory: Factory) -> None:
    assert partial.carried is not None
    rows: Sequence[int] = [len(each.table.codes) for each in (partial, factory)]
    assert rows[0] == partial.carried.ids.size + 2
    assert rows[0] < SHARE * rows[1] + 3


def test_the_files_of_a_partial_edge_are_its_own(pair: dict[str, Bundle], tmp_path: Path) -> None:
    names = set(pair["edge"].manifest.files)
    assert {"carried.ids.npy", "carried.lost.npy"} <= names
    assert pair["cloud"].carried() is None

"""The neighbours of a catalogue: read whole or refused, and what they add to whose score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tierline import BundleRefused
from tierline_kernels import RowwiseInt8, dot_topk, quantize_rows
from tierline_kernels.operations import TopK
from tierline_serving.boosted import left_out, with_boosted
from tierline_serving.bundle import write_bundle
from tierline_serving.neighbours import LEVELS, MOST, NeighbourTable, starts_of

ITEMS = 30
HOW: dict[str, Any] = {"weight": 0.8, "decay": 0.6, "window": 4, "floor": 1e-3}

histories = st.lists(st.integers(1, ITEMS), max_size=8).map(lambda ids: np.array(ids, np.int64))


def table(seed: int = 0, items: int = ITEMS) -> NeighbourTable:
    """Up to four random neighbours of each item."""
    dice = np.random.default_rng(seed)
    counts = dice.integers(0, 5, items + 1).astype(np.uint8)
    counts[0] = 0
    pairs = int(counts.sum())
    return NeighbourTable(
        starts=starts_of(counts),
        ids=dice.integers(1, items + 1, pairs).astype(np.uint16),
        codes=dice.integers(0, LEVELS, pairs).astype(np.uint8),
        levels=np.geomspace(1e-3, 2.0, LEVELS).astype(np.float32),
        **HOW,
    )


def dense(of: NeighbourTable, history: NDArray[np.int64]) -> NDArray[np.float64]:
    """What every item gains by one history, written out event by event."""
    scores = np.zeros(ITEMS + 1)
    for age, item in enumerate(history[::-1][: of.window]):
        for pair in range(of.starts[item], of.starts[item + 1]):
            scores[of.ids[pair]] += float(of.levels[of.codes[pair]]) * of.decay**age
    total = scores.sum()
    if not total:
        return scores
    gains: NDArray[np.float64] = of.weight * (np.log(scores / total + of.floor) - np.log(of.floor))
    return gains


@given(st.lists(histories, max_size=5), st.integers(0, 3))
def test_the_gains_are_those_of_every_event_added_up(
    asked: list[NDArray[np.int64]], seed: int
) -> None:
    found = table(seed).boosts(asked)
    assert found.offsets.size == len(asked) + 1
    scores = np.zeros((len(asked), ITEMS + 1), np.float32)
    found.add_to(scores)
    everything = np.arange(ITEMS + 1)
    for row, history in enumerate(asked):
        ids, values = found.of(row)
        assert (np.diff(ids) > 0).all()
        assert (values >= 0).all()
        wanted = dense(table(seed), history)
        np.testing.assert_allclose(scores[row], wanted, rtol=1e-5, atol=1e-6)
        assert found.at(row, everything).tobytes() == scores[row].tobytes()


@given(st.lists(histories, min_size=2, max_size=6))
def test_what_a_history_gains_does_not_depend_on_its_batch_mates(
    asked: list[NDArray[np.int64]],
) -> None:
    together = table().boosts(asked)
    backwards = together.take(range(len(asked) - 1, -1, -1))
    for row, history in enumerate(asked):
        for ids, values in (together.of(row), backwards.of(len(asked) - 1 - row)):
            alone = table().boosts([history])
            assert (ids.tobytes(), values.tobytes()) == (
                alone.ids.tobytes(),
                alone.values.tobytes(),
            )


def test_events_of_which_nothing_is_left_add_nothing() -> None:
    faded = replace(table(), decay=1e-6, window=100)
    with_none = int(np.flatnonzero(faded.counts[1:] == 0)[0]) + 1
    asked = np.array([1 + int(faded.counts[1:].argmax()), *[with_none] * 80])
    found = faded.boosts([asked])
    assert found.ids.size
    assert not found.values.any()


def rows_of(kind: str) -> RowwiseInt8 | NDArray[np.float32]:
    """Item rows; many are equal, so that scores tie."""
    rows = np.random.default_rng(5).integers(-2, 3, (ITEMS + 1, 4)).astype(np.float32)
    if kind == "float":
        return rows
    made = quantize_rows(rows)
    biases = np.linspace(-1, 1, ITEMS + 1, dtype=np.float32) if kind == "biased" else None
    return RowwiseInt8(made.codes, made.scales, biases)


states = arrays.arrays(np.float32, (4,), elements=st.integers(-3, 3).map(float))


@pytest.mark.parametrize("kind", ["int8", "biased", "float"])
@given(asked=st.lists(st.tuples(histories, states), min_size=1, max_size=4), k=st.integers(1, 40))
def test_the_best_of_both_lists_are_the_best_of_the_catalogue(
    kind: str, asked: list[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> None:
    rows, near = rows_of(kind), table(1)
    hidden = np.stack([state for _, state in asked])
    seen_lists = [np.append(history, 0) for history, _ in asked]
    seen = np.concatenate(seen_lists), np.cumsum([0, *(each.size for each in seen_lists)])
    boosts = near.boosts([history for history, _ in asked])
    found = dot_topk(hidden, rows, k, exclude=left_out(seen, boosts), backend="reference")
    mine = with_boosted(found, hidden, rows, boosts, seen)
    for row, (history, _) in enumerate(asked):
        gains = np.zeros((1, ITEMS + 1), np.float32)
        near.boosts([history]).add_to(gains)
        wanted = dot_topk(
            hidden[row : row + 1], rows, k, boost=gains[0],
            exclude=(seen_lists[row], np.array([0, seen_lists[row].size])), backend="reference",
        )  # fmt: skip
        assert mine.indices[row].tolist() == wanted.indices[0].tolist()
        assert mine.values[row].tolist() == wanted.values[0].tolist()


def test_a_score_that_is_no_number_is_not_returned() -> None:
    near = table(1)
    boosts = near.boosts([np.array([3])])
    assert boosts.ids.size
    nothing = np.empty(0, np.int64), np.zeros(2, np.int64)
    found = TopK(np.full((1, 2), -np.inf, np.float32), np.full((1, 2), -1, np.int64))
    rows = np.full((ITEMS + 1, 4), np.nan, np.float32)
    best = with_boosted(found, np.ones((1, 4), np.float32), rows, boosts, nothing)
    assert best.indices.tolist() == [[-1, -1]]


@given(
    st.dictionaries(
        st.tuples(st.integers(1, ITEMS), st.integers(1, ITEMS)), st.floats(1e-3, 10.0), max_size=60
    ),
    st.integers(0, 60),
)
def test_pruning_keeps_what_is_asked_for_most_and_weights_to_a_few_percent(
    found: dict[tuple[int, int], float], pairs: int
) -> None:
    keys = sorted(found)
    weights = np.array([found[key] for key in keys], np.float32)
    owners, near = np.array(keys, np.int64).reshape(-1, 2).T
    starts = np.searchsorted(owners, np.arange(ITEMS + 2))
    asked = np.arange(ITEMS + 1) ** 2.0
    made = NeighbourTable.pruned(starts, near, weights, asked=asked, pairs=pairs, **HOW)
    totals = np.bincount(owners, weights, minlength=ITEMS + 1)
    worth = asked[owners] * weights / totals[owners]
    kept = sorted(sorted(range(len(keys)), key=lambda i: -worth[i])[:pairs])
    assert np.repeat(np.arange(ITEMS + 1), made.counts).tolist() == owners[kept].tolist()
    assert made.ids.tolist() == near[kept].tolist()
    # 255 steps between the least and the greatest: half a step is 1.9 % of a range of 10,000.
    np.testing.assert_allclose(made.levels[made.codes], weights[kept], rtol=0.02)


def test_one_item_has_at_most_forty_neighbours() -> None:
    starts = np.array([0, 0, 60, *[60] * 60])
    near, weights = np.arange(1, 61), np.linspace(1, 2, 60, dtype=np.float32)
    made = NeighbourTable.pruned(starts, near, weights, asked=np.ones(62), pairs=99, **HOW)
    assert made.counts.tolist() == [0, MOST, *[0] * 60]
    assert made.ids.tolist() == near[-MOST:].tolist()


def test_ids_are_as_wide_as_the_catalogue_needs() -> None:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    few, many = (
        NeighbourTable.pruned(
            np.zeros(items + 2, np.int64), *nothing, asked=np.ones(items + 1), pairs=9, **HOW
        )
        for items in (65535, 65536)
    )
    assert (few.ids.dtype, many.ids.dtype) == (np.uint16, np.uint32)
    assert few.nbytes == 65536 + LEVELS * 4
    assert not few.boosts([np.array([1, 65535])]).ids.size


def test_less_than_no_neighbours_is_no_number_of_them() -> None:
    nothing = np.zeros(9, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        NeighbourTable.pruned(*nothing, asked=np.ones(8), pairs=-1, **HOW)


def refused(folder: Path, **changed: NDArray[np.generic] | bytes) -> str:
    """What a bundle with other neighbours is refused with."""
    files = {
        f"near/{name}.npy": each if isinstance(each, bytes) else sample.npy(each)
        for name, each in changed.items()
    }
    with pytest.raises(BundleRefused) as caught:
        write_bundle({**sample.sequence_files(), **files}, sample.sequence_manifest(), folder)
    return str(caught.value)


def test_the_bundles_own_neighbours_are_what_was_packed(tmp_path: Path) -> None:
    read = sample.write_sequence_bundle(tmp_path).neighbours()
    assert read is not None
    for name, array in sample.neighbours().items():
        np.testing.assert_array_equal(getattr(read, name), array)
    assert (read.weight, read.decay, read.window, read.floor) == (0.9, 0.6, 20, 1e-3)


def test_neighbours_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole = {name: array.copy() for name, array in sample.neighbours().items()}
    counts, ids, codes, levels = whole.values()

    def other(array: NDArray[Any], place: int, value: float) -> NDArray[Any]:
        changed = array.copy()
        changed[place] = value
        return changed

    changes: list[tuple[dict[str, NDArray[Any] | bytes], str]] = [
        ({"ids": other(ids, 4, sample.ITEMS + 1)}, "a neighbour is item 7; ids go from 1 to 6"),
        ({"ids": other(ids, 4, 0)}, "a neighbour is item 0"),
        ({"ids": ids.astype(np.int64)}, "expected uint16 or uint32"),
        ({"ids": ids[1:]}, "the counts add up to 9, and there are 8 ids and 9 codes"),
        ({"codes": codes[1:]}, "there are 9 ids and 8 codes"),
        ({"counts": other(counts, 6, 200)}, "the counts add up to 207"),
        ({"counts": np.roll(counts, -1)}, "item 0 is padding"),
        ({"counts": counts[1:]}, "expected uint8 [7]"),
        ({"levels": other(levels, 9, np.nan)}, "levels must be finite"),
        ({"levels": other(levels, 0, 0.0)}, "above 0"),
        ({"levels": levels[:9]}, "expected float32 [256]"),
        ({"codes": b"no npy file"}, "is no readable npy file"),
    ]
    for change, sentence in changes:
        assert sentence in refused(tmp_path, **change)


@given(
    arrays.arrays(np.uint8, (4,), elements=st.integers(0, 3)),
    arrays.arrays(np.uint16, st.integers(0, 9), elements=st.integers(0, 4)),
    arrays.arrays(np.float32, (LEVELS,), elements=st.floats(0, 1, width=32) | st.just(np.inf)),
)
def test_whatever_is_taken_for_a_table_gives_finite_gains(
    counts: NDArray[np.uint8], ids: NDArray[np.uint16], levels: NDArray[np.float32]
) -> None:
    codes = ids.astype(np.uint8)
    try:
        near = NeighbourTable(starts=starts_of(counts), ids=ids, codes=codes, levels=levels, **HOW)
    except ValueError:
        return
    found = near.boosts([np.array([1, 2, 3]), np.zeros(0, np.int64)])
    assert np.isfinite(found.values).all()
    assert ((found.ids >= 1) & (found.ids <= 3)).all()

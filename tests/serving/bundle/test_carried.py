"""An edge with part of the catalogue: its rows, and which calls it doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tierline import BundleRefused
from tierline_serving.bundle import write_bundle
from tierline_serving.carried import STEPS, Carried
from tierline_serving.certified import subject_of
from tierline_serving.manifest import Manifest

ITEMS, DECAY, WINDOW = 12, 0.5, 3
parts = st.sets(st.integers(1, ITEMS), min_size=1).map(sorted)
histories = st.lists(st.integers(1, ITEMS), max_size=8)
shares = st.floats(0, 1)


def carried(ids: list[int], above: float = 0.3) -> Carried:
    lost = np.linspace(0, 1, ITEMS + 1)
    return Carried.chosen(np.array(ids), lost, decay=DECAY, window=WINDOW, above=above)


@given(parts)
def test_rows_and_ids_name_each_other_and_all_else_has_one_row(ids: list[int]) -> None:
    made = carried(ids)
    assert made.rows_of(np.array(ids)).tolist() == list(range(1, len(ids) + 1))
    assert made.items_at(made.rows_of(np.array(ids))).tolist() == ids
    others = sorted(set(range(1, ITEMS + 1)) - set(ids))
    assert (made.rows_of(np.array(others, np.int64)) == made.stand_in).all()
    assert made.rows_of(np.zeros(2, np.int64)).tolist() == [0, 0]
    assert made.items_at(np.array([-1])).tolist() == [-1]


@given(histories)
def test_a_young_event_counts_more_and_an_old_one_nothing(history: list[int]) -> None:
    found = carried([1]).lost_of([np.array(history, np.int64)])[0]
    weights = [DECAY**age for age in range(len(history))][:WINDOW]
    recent = [np.rint(each / ITEMS * STEPS) / STEPS for each in history[::-1][:WINDOW]]
    expected = np.dot(weights, recent) / sum(weights) if history else 0.0
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(histories, shares), min_size=2, max_size=6), shares)
def test_who_lost_too_much_is_doubted_before_all_others(
    calls: list[tuple[list[int], float]], above: float
) -> None:
    made = carried([1, 5], above)
    known = [np.array(history, np.int64) for history, _ in calls]
    own = np.array([uncertainty for _, uncertainty in calls])
    lost, doubts = made.lost_of(known), made.doubts(known, own)
    assert ((doubts >= 0) & (doubts <= 1)).all()
    assert doubts.tolist() == [made.doubt(*pair) for pair in zip(lost, own, strict=True)]
    for first in range(len(calls)):
        for second in range(len(calls)):
            if lost[first] > above and lost[second] <= above:
                assert doubts[first] > doubts[second]
            elif (lost[first] > above) == (lost[second] > above):
                by = lost if lost[first] > above else own
                assert (by[first] >= by[second]) or doubts[first] <= doubts[second]


@pytest.mark.parametrize("ids", [[], [0, 3], [3, 3], [4, 2], [2, ITEMS + 1]])
def test_ids_that_do_not_rise_within_the_catalogue_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="the carried ids must rise and be from 1 to 12"):
        carried(ids)


def manifest(items: int = 4) -> dict[str, Any]:
    made: dict[str, Any] = sample.sequence_manifest()
    made["sequence"]["carried"] = {
        "items": items, "ids": "carried/ids.npy", "lost": "carried/lost.npy",
        "decay": 0.6, "window": 20, "above": 0.25,
    }  # fmt: skip
    del made["golden"]  # it recommends what is not carried here
    return made


def files(**changed: NDArray[Any]) -> dict[str, Path | bytes]:
    """Four of the six items: five rows behind padding."""
    rng = np.random.default_rng(7)
    near = dict(sample.neighbours())
    near["counts"] = np.array([0, 2, 1, 0, 3, 0], np.uint8)
    near["ids"], near["codes"] = np.array([2, 3, 1, 1, 2, 3], np.uint16), near["codes"][:6]
    arrays: dict[str, NDArray[Any]] = {
        "tables/codes.npy": rng.integers(-9, 9, (6, sample.DIM)).astype(np.int8),
        "tables/scales.npy": rng.random(6).astype(np.float32),
        "tables/biases.npy": rng.random(6).astype(np.float32),
        **{f"near/{name}.npy": array for name, array in near.items()},
        "carried/ids.npy": np.array([1, 3, 4, 6], np.uint16),
        "carried/lost.npy": np.array([0, 9, 255, 0, 1, 2, 3], np.uint8),
        **{name.replace("_", "/") + ".npy": array for name, array in changed.items()},
    }
    whole = {k: v for k, v in sample.sequence_files().items() if not k.startswith("golden")}
    return {**whole, **{name: sample.npy(array) for name, array in arrays.items()}}


def test_a_bundle_says_what_it_carries(tmp_path: Path) -> None:
    bundle = write_bundle(files(), manifest(), tmp_path)
    found = bundle.carried()
    assert found is not None
    assert found.ids.tolist() == [1, 3, 4, 6]
    assert (found.decay, found.window, found.above) == (0.6, 20, 0.25)
    near = bundle.neighbours()
    assert near is not None
    assert near.counts.tolist() == [0, 2, 1, 0, 3, 0]
    assert sample.write_sequence_bundle(tmp_path / "whole").carried() is None


def test_carried_items_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    ids = np.array([1, 3, 4, 6], np.uint16)
    for number, (changed, sentence) in enumerate(
        [
            ({"carried_ids": ids[::-1].copy()}, "must rise"),
            ({"carried_ids": ids[1:]}, "expected uint16 or uint32 [4]"),
            ({"carried_ids": ids.astype(np.int64)}, "expected uint16 or uint32 [4]"),
            ({"carried_ids": ids + 1}, "from 1 to 6"),
            ({"carried_lost": np.zeros(6, np.uint8)}, "expected uint8 [7]"),
            ({"tables_codes": np.zeros((7, sample.DIM), np.int8),
              "tables_scales": np.ones(7, np.float32), "tables_biases": np.ones(7, np.float32)},
             "carried.items + 2 rows of dim"),
        ]
    ):  # fmt: skip
        with pytest.raises(BundleRefused) as caught:
            write_bundle(files(**changed), manifest(), tmp_path / str(number))
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda made: made["sequence"]["carried"].update(items=7), "carried.items: is 7, of 6"),
        (lambda made: made["sequence"]["carried"].update(above=2), "carried.above: expected"),
        (lambda made: made["sequence"]["carried"].update(ids="no.npy"), "points to 'no.npy'"),
        (
            lambda made: (made.pop("uncertainty"), made.pop("certificate")),
            "carried: raises an uncertainty, and there is no uncertainty",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Any, sentence: str) -> None:
    made = {**manifest(), "files": listed()}
    change(made)
    with pytest.raises(BundleRefused) as caught:
        Manifest.from_json(made)
    assert sentence in str(caught.value)


def listed(content: dict[str, Path | bytes] | None = None) -> dict[str, Any]:
    return {name: {"sha256": "0" * 64, "bytes": 1} for name in content or files()}


def test_carrying_other_items_voids_a_certificate() -> None:
    made = {**manifest(), "files": listed()}
    before = subject_of(Manifest.from_json(made), cloud="c" * 64)
    made["files"]["carried/lost.npy"] = {"sha256": "1" * 64, "bytes": 1}
    after = subject_of(Manifest.from_json(made), cloud="c" * 64)
    assert before.catalogue != after.catalogue
    assert before.model == after.model
    made["sequence"]["carried"]["above"] = 0.5
    assert subject_of(Manifest.from_json(made), cloud="c" * 64).model != before.model

"""Device tables and hand-over by address, in Numba's simulator (test_device.py runs this file)."""

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tierline_edge import embeddings
from tierline_edge.device import DeviceItems, Recommendation
from tierline_edge.embeddings import ItemTable, open_items
from tierline_edge.session import PROVIDERS, Place
from tierline_kernels import KernelError, quantize_rows

ROWS = quantize_rows(np.random.default_rng(0).standard_normal((9, 16)))
BUNDLE: Any = SimpleNamespace(
    is_private=False,
    id="tiny",
    table=lambda name: SimpleNamespace(codes=ROWS.codes, scales=ROWS.scales, biases=None),
)


def at(place: Place) -> NDArray[np.float32]:
    address, shape = place
    floats = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(floats, shape)


class FakeSession:
    """An encoder that reads and writes by address, as ONNX Runtime does under IOBinding."""

    provider = PROVIDERS["cuda"]

    def __init__(self) -> None:
        self.streams: list[int] = []

    def share_stream(self, handle: int) -> None:
        self.streams.append(handle)

    def run_bound(self, inputs: dict[str, Place], outputs: dict[str, Place]) -> None:
        embedded, mask = at(inputs["embedded"]), at(inputs["mask"])
        at(outputs["hidden"])[...] = (embedded * mask[..., None]).sum(axis=1)
        at(outputs["doubt"])[...] = mask.sum(axis=1)


def test_device_items_answer_as_the_hosts_do() -> None:
    host, device = ItemTable(BUNDLE, "items"), DeviceItems(ROWS)
    ids = np.array([[0, 3], [8, 1]])
    np.testing.assert_array_equal(device.look_up(ids), host.look_up(ids))
    hidden = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)
    exclude = (np.array([5, 0, 0, 2]), np.array([0, 2, 4]))
    mine, theirs = device.best(hidden, 4, exclude), host.best(hidden, 4, exclude)
    np.testing.assert_array_equal(mine.indices, theirs.indices)
    np.testing.assert_array_equal(mine.values, theirs.values)


def test_the_encoder_reads_the_looked_up_rows_where_they_lie() -> None:
    session: Any = FakeSession()
    ids = np.array([[0, 3, 4], [8, 1, 2]])
    hidden, doubt = DeviceItems(ROWS).encode(session, ids, ["hidden", "doubt"])
    rows = ItemTable(BUNDLE, "items").look_up(ids)
    np.testing.assert_allclose(hidden, (rows * (ids > 0)[..., None]).sum(axis=1), rtol=1e-6)
    assert doubt.tolist() == [2.0, 3.0]


def test_the_sessions_provider_chooses_and_the_choice_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session: Any = FakeSession()
    with caplog.at_level(logging.INFO, embeddings.log.name):
        on_device = open_items(BUNDLE, "items", session)
        on_host = open_items(BUNDLE, "items", SimpleNamespace(provider=PROVIDERS["cpu"]))  # type: ignore[arg-type]
    assert (on_device.backend, on_host.backend) == ("cuda", "cpu")
    assert len(session.streams) == 1
    told = [record.getMessage() for record in caplog.records]
    assert ["run on cuda" in told[0], "run on cpu" in told[1]] == [True, True]


def test_a_planned_recommendation_answers_as_the_steps_do_one_by_one() -> None:
    session: Any = FakeSession()
    items = DeviceItems(ROWS)
    plan = Recommendation(items, session, ["hidden", "doubt"], (2, 3), 4, most_excluded=5)
    none = (np.empty(0, np.int64), np.zeros(3, np.int64))
    for ids, exclude in (
        (np.array([[0, 3, 4], [8, 1, 2]]), (np.array([7, 0, 1, 0]), np.array([0, 2, 4]))),
        (np.array([[0, 0, 5], [6, 6, 2]]), none),
    ):
        plan.fill(ids, exclude)
        plan.replay()
        (hidden, doubt), best = plan.answer()
        states, doubts = items.encode(session, ids, ["hidden", "doubt"])
        np.testing.assert_array_equal(hidden, states)
        np.testing.assert_array_equal(doubt, doubts)
        alone = items.best(states, 4, exclude)
        np.testing.assert_array_equal(best.indices, alone.indices)
        np.testing.assert_array_equal(best.values, alone.values)
    with pytest.raises(KernelError, match="ids must be"):
        plan.fill(ids[:, :2], none)
    with pytest.raises(KernelError, match="planned for 5"):
        plan.fill(ids, (np.zeros(6, np.int64), np.array([0, 3, 6])))

"""Device tables and hand-over by address, in Numba's simulator (test_device.py runs this file)."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_bundles
from numpy.typing import NDArray

from tierline.wire import ScoreRequest
from tierline_edge import device as device_module
from tierline_edge import embeddings, sequence
from tierline_edge.device import DeviceItems, Recommendation
from tierline_edge.embeddings import ItemTable, open_items
from tierline_edge.sequence import SequenceScorer
from tierline_edge.session import PROVIDERS, Place, Session
from tierline_kernels import KernelError, quantize_rows
from tierline_serving.carried import Carried

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

    def run_bound(self, inputs: dict[str, Place], outputs: dict[str, Place]) -> None:
        embedded, mask = at(inputs["embedded"]), at(inputs["mask"])
        at(outputs["hidden"])[...] = (embedded * mask[..., None]).sum(axis=1)
        at(outputs["doubt"])[...] = mask.sum(axis=1)


class Bound:
    """What an ONNX Runtime session was told to read and to write where."""

    def __init__(self) -> None:
        self.inputs: dict[str, Place] = {}
        self.outputs: dict[str, Place] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        self.inputs[name] = self._place(*where)

    def bind_output(self, name: str, *where: Any) -> None:
        self.outputs[name] = self._place(*where)

    def _place(self, device: str, number: int, kind: type, shape: list[int], address: int) -> Place:
        assert (device, number, kind) == ("cuda", 0, np.float32)
        return address, tuple(shape)


class Addressed:
    """ONNX Runtime's session on the CPU in the place of CUDA's: it computes by address."""

    def __init__(self, real: Any) -> None:
        self.run = real.run
        self.streams: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def set_providers(self, providers: list[str], options: list[dict[str, str]]) -> None:
        self.streams += [each["user_compute_stream"] for each in options]

    def io_binding(self) -> Bound:
        return Bound()

    def run_with_iobinding(self, bound: Bound, options: Any) -> None:
        self.shapes.append(bound.inputs["mask"][1])
        feed = {name: at(place).copy() for name, place in bound.inputs.items()}
        answers = self.run(list(bound.outputs), feed)
        for place, answer in zip(bound.outputs.values(), answers, strict=True):
            at(place)[...] = answer


def a_session() -> Session:
    return Session(tiny_bundles.encoder(), threads=1)


def on_cuda() -> tuple[Session, Addressed]:
    """Our session as it is on CUDA, and the runtime below it."""
    session = a_session()
    runtime = Addressed(session._session)
    session.provider, session._session = PROVIDERS["cuda"], runtime
    return session, runtime


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
    session, runtime = on_cuda()
    with caplog.at_level(logging.INFO, embeddings.log.name):
        on_device = open_items(BUNDLE, "items", session)
        on_host = open_items(BUNDLE, "items", a_session())
    assert (on_device.backend, on_host.backend) == ("cuda", "cpu")
    assert len(runtime.streams) == 1
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


def ask(history: list[int], k: int | None = None, wanted: list[int] | None = None) -> ScoreRequest:
    candidates = None if wanted is None else {"id": np.array(wanted)}
    query = {"history": np.array(history, np.int64)}
    return ScoreRequest(model="ranker", query=query, candidates=candidates, k=k)


@pytest.mark.parametrize(
    ("int8", "part"),
    [
        (True, None),
        (True, tiny_bundles.PART),
        pytest.param(False, None, marks=pytest.mark.nightly),
    ],
)
def test_a_scorer_on_a_device_recommends_what_one_on_the_host_does(
    int8: bool, part: Carried | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path, int8=int8, neighbours=part is None, carried=part)
    monkeypatch.setattr(sequence, "PROBES", 2)  # a simulated thread is one of Python's
    session, runtime = on_cuda()
    host = SequenceScorer(bundle, a_session())
    device = SequenceScorer(bundle, session)
    assert (host.info.kernels, device.info.kernels) == ("cpu", "cuda")
    monkeypatch.setattr(device_module, "ROWS_TOGETHER", 2)
    runtime.shapes.clear()
    batches = [
        [ask([3, 17, 3], 5)],
        [ask([], 2), ask([1], None, [5, 40]), ask([9, 8, 7, 6, 5, 4, 3], 45)],
        [ask([1, 2], None, [3])],
    ]
    for batch in batches:
        for mine, theirs in zip(device.score(batch), host.score(batch), strict=True):
            assert mine.uncertainty == theirs.uncertainty
            if theirs.items is None:
                assert mine.items is None
            else:
                assert mine.items is not None
                assert mine.items.tolist() == theirs.items.tolist()
            if int8:
                assert mine.scores.tobytes() == theirs.scores.tobytes()
            else:
                np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-5)
    # Three at once were answered two and two: a plan's memory has a bound.
    assert max(shape[0] for shape in runtime.shapes) == 2


def test_more_items_than_the_kernels_select_are_chosen_by_the_hosts_twin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session: Any = FakeSession()
    ids, none = np.array([[0, 3, 4]]), (np.empty(0, np.int64), np.zeros(2, np.int64))
    _, few = DeviceItems(ROWS).recommend(session, ids, ["hidden", "doubt"], 5, none)
    monkeypatch.setattr(device_module, "MAX_K", 4)
    _, many = DeviceItems(ROWS).recommend(session, ids, ["hidden", "doubt"], 5, none)
    np.testing.assert_array_equal(many.indices, few.indices)
    np.testing.assert_array_equal(many.values, few.values)


def test_only_the_latest_shapes_stay_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "PLANS", 2)
    session: Any = FakeSession()
    items = DeviceItems(ROWS)
    made: list[tuple[int, int]] = []
    plan = Recommendation.__init__
    monkeypatch.setattr(
        Recommendation, "__init__",
        lambda self, *a: (made.append((a[3][0], a[4])), plan(self, *a))[1],
    )  # fmt: skip
    for rows, k in ((1, 3), (2, 3), (1, 9), (1, 40), (2, 3)):
        none = (np.empty(0, np.int64), np.zeros(rows + 1, np.int64))
        items.recommend(session, np.ones((rows, 3), np.int64), ["hidden", "doubt"], k, none)
    # 1 × 9 takes the plan of 1 × 3; 1 × 40 needs its own, for which 2 × 3 makes room.
    assert made == [(1, 32), (2, 32), (1, 64), (2, 32)]

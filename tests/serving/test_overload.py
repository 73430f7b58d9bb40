"""However much is asked of a node, what it answers in time does not fall: a model of one core.

The loop reads callers, refuses by their heads, scores a batch and answers; each costs core time.
What decides is the real thing: turns, door, admission, batcher.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
import pytest
from fake_scorer import a_request
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import CallError
from tierline.wire import ScoreRequest
from tierline_serving.admission import WARM_AFTER, Backlog
from tierline_serving.batching import Batcher, BatchLimits, Pending
from tierline_serving.batching.door import Door
from tierline_serving.batching.pending import Outcome
from tierline_serving.batching.place import READ_LEAST, reading_time
from tierline_serving.front.turns import Turns

CONNECTIONS = 512
ROWS, MOST = 100, 700  # rows a call, and a batch on the loop
READ, OPEN, REFUSE, ANSWER = 12e-6, 25e-6, 12e-6, 20e-6  # seconds a call, measured
FIXED, PER_ROW = 60e-6, 1.35e-6  # seconds a batch and a row
CAPACITY = (MOST // ROWS) / (FIXED + MOST * PER_ROW + (MOST // ROWS) * (READ + OPEN + ANSWER))
REQUEST: ScoreRequest = a_request(*range(1, ROWS + 1))


def untold(pending: Pending, outcome: Outcome) -> None:
    raise AssertionError("the model settles nothing")


@dataclass
class Node:
    """One core with a fixed list of arrivals; what became of them, in seconds."""

    arrivals: deque[float]
    deadline: float
    classes: tuple[str, ...] = ("default",)  # by turns
    slowness: float = 1.0  # how many times longer everything takes than it did before
    now: float = 0.0

    def __post_init__(self) -> None:
        self.criticality = itertools.cycle(self.classes)
        self.was: dict[Pending, str] = {}
        self.offered: Counter[str] = Counter()
        self.in_time: Counter[str] = Counter()
        self.overtaken: Counter[str] = Counter()
        self.batcher: Batcher[Pending] = Batcher(BatchLimits(max_batch_rows=4096))
        self.door = Door(self.batcher)
        self.turns = Turns()
        self.came: dict[Pending, float] = {}
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.scored_at = self.looked_at = 0.0
        self.read_most = READ_LEAST
        self.waited = False
        self.door.admission.batch_rows = MOST
        for index in range(WARM_AFTER):
            rows = ROWS * (1 + index % 7)
            self.door.admission.observe(rows, FIXED + rows * PER_ROW, 0.0)

    def run(self) -> None:
        while self.arrivals or self.batcher.queued_requests:
            if not self.batcher.queued_requests and self.arrivals:
                self.now = max(self.now, self.arrivals[0])
            readable = []
            free = CONNECTIONS - self.batcher.queued_requests
            while self.arrivals and self.arrivals[0] <= self.now and len(readable) < free:
                # A call that had to wait for a free connection was sent when one was.
                readable.append(max(self.arrivals.popleft(), self.looked_at))
            self.looked_at = self.now
            for came in readable:
                self.read(came)
            if readable:
                self.turns.over(self.now)
            self.score()

    def spend(self, seconds: float) -> None:
        self.now += seconds * self.slowness

    def read(self, came: float) -> None:
        self.spend(READ)
        self.turns.opens(self.now)
        until = self.turns.since + self.deadline
        if self.batcher.queued_requests and self.now - self.scored_at > self.read_most:
            self.score()
        criticality = next(self.criticality)
        self.offered[criticality] += 1
        backlog = Backlog(self.batcher.queued_rows)
        size = Pending(REQUEST, ROWS, until, self.now, untold).size
        if self.door.foresee(size, until, backlog, self.now, criticality) is not None:
            self.spend(REFUSE)
            self.refused.append(self.now - came)
            return
        self.spend(OPEN)
        pending = Pending(REQUEST, ROWS, until, self.now, untold)
        error: CallError | None = self.door.admit(pending, backlog, self.now, "", criticality)
        if error is None:
            self.was[pending] = criticality
            self.came[pending] = came
            backlog = Backlog(self.batcher.queued_rows)
            for late, _ in self.door.overtaken(backlog, self.now, criticality):
                self.spend(REFUSE)
                self.refused.append(self.now - self.came.pop(late))
                self.overtaken[self.was.pop(late)] += 1
        else:  # it took the last of its time to read
            self.refused.append(self.now - came)

    def score(self) -> None:
        began = self.now
        batch = self.batcher.take(began, MOST)
        if batch is None or not batch.tickets:
            return
        self.door.drained()
        self.spend(FIXED + batch.rows * PER_ROW)
        took = self.now - began
        self.door.admission.observe(batch.rows, took, self.now, follows=self.waited)
        self.waited = self.batcher.queued_requests > 0
        for pending in batch.tickets:
            self.spend(ANSWER)
            took = self.now - self.came.pop(pending)
            self.answered.append(took)
            self.in_time[self.was.pop(pending)] += took <= self.deadline
        self.scored_at = self.now
        self.read_most = reading_time(self.now - began)
        self.turns.worked(self.now - began)


def a_node(
    load: float,
    deadline: float,
    seed: int,
    seconds: float = 0.5,
    classes: tuple[str, ...] = ("default",),
) -> Node:
    dice = random.Random(seed)
    arrivals, at = deque[float](), 0.0
    while at < seconds:
        at += dice.expovariate(load * CAPACITY)
        arrivals.append(at)
    return Node(arrivals, deadline, classes)


def goodput(node: Node) -> float:
    """Answers in time a second, ÷ what the core can do."""
    return sum(each <= node.deadline for each in node.answered) / node.now / CAPACITY


@pytest.mark.parametrize(("load", "least"), [(0.7, 0.65), (1.5, 0.9), (3.0, 0.65), (8.0, 0.5)])
def test_goodput_stands_whatever_is_offered(load: float, least: float) -> None:
    node = a_node(load, 0.05, seed=1)
    node.run()
    assert goodput(node) >= least
    assert np.quantile(node.answered, 0.99) <= node.deadline


def test_who_is_refused_at_half_more_than_capacity_learns_it_within_five_milliseconds() -> None:
    node = a_node(1.5, 0.05, seed=2)
    node.run()
    assert len(node.refused) > 100
    assert np.quantile(node.refused, 0.999) <= 0.005


def test_they_learn_it_as_soon_when_the_core_has_become_half_as_slow_again() -> None:
    node = a_node(1.5, 0.05, seed=2)
    node.slowness = 1.5
    node.run()
    assert len(node.refused) > 100
    assert np.quantile(node.refused, 0.999) <= 0.005


def test_below_capacity_nobody_is_refused() -> None:
    node = a_node(0.7, 0.05, seed=3)
    node.run()
    assert node.refused == []


MIXTURE = ("critical", "sheddable", "default", "sheddable", "sheddable")


@pytest.mark.parametrize("load", [1.2, 2.0, 3.0])
def test_the_critical_are_not_refused_for_work_that_gives_way_to_them(load: float) -> None:
    node = a_node(load, 0.05, seed=4, classes=MIXTURE)
    node.run()
    assert node.in_time["critical"] >= 0.99 * node.offered["critical"]
    assert goodput(node) >= 0.65


@settings(max_examples=12, deadline=None)
@given(st.floats(1.0, 10.0), st.sampled_from([0.05, 0.25]), st.integers(0, 1000))
def test_offering_more_never_starves_who_is_answered(
    load: float, deadline: float, seed: int
) -> None:
    node = a_node(load, deadline, seed, seconds=0.3)
    node.run()
    assert goodput(node) >= 0.5


def test_a_call_counts_as_arrived_when_the_work_began_that_kept_it_waiting() -> None:
    turns = Turns()
    assert turns.opens(1.0)
    assert not turns.opens(1.1)
    assert turns.since == 1.0
    turns.over(1.25)
    turns.worked(0.5)
    assert turns.opens(5.0)
    assert turns.since == pytest.approx(4.25)
    turns.over(5.0)
    assert turns.opens(6.0)
    assert turns.since == 6.0

"""Loading, swapping, rolling back, unloading, watching: what serves, serves on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_scorer import POISON, FakeScorer, a_request, until

from tierline import BadRequest, BundleRefused, ModelFailed, ModelNotFound
from tierline_serving.batching import BatchLimits, Runner
from tierline_serving.model_states import State
from tierline_serving.repository import (
    RETRY_AFTER,
    Repository,
    RepositoryOptions,
    Seen,
)
from tierline_serving.scorer import Scorer
from tierline_serving.served import Served
from tierline_serving.shelf import Loaded, PlainShelf, Shelf, Source, Staged
from tierline_serving.versions import Wanted

MIB = 2**20


@dataclass
class FakeShelf:
    """A registry of fake bundles: ``default`` answers; ``broken`` ones are refused."""

    default: str = "1@a"
    others: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    poisoned: set[str] = field(default_factory=set)  # these load, and fail their warm-up
    need: int = MIB
    made: list[FakeScorer] = field(default_factory=list)
    stamps: int = 0

    def wanted(self) -> Wanted:
        return Wanted(default=self.default, others=self.others, labels=self.labels)

    def stage(self, bundle: str | None) -> Staged:
        assert bundle is not None
        if bundle in self.broken:
            raise BundleRefused(f"bundle {bundle} is damaged")
        return Staged(name=bundle, need=self.need, load=lambda: self._load(bundle))

    def stamp(self) -> object:
        return (self.stamps, self.default)

    def _load(self, bundle: str) -> Loaded:
        self.made.append(FakeScorer(bundle=bundle))
        asked = a_request(POISON if bundle in self.poisoned else 1)
        return Loaded(scorer=self.made[-1], warm_up=asked)


@dataclass
class Node:
    """A repository that serves bundle 1@a of the model `ranker` from a shelf."""

    repository: Repository
    served: Served
    shelf: FakeShelf
    first: FakeScorer
    free: list[int]

    @property
    def now(self) -> str:
        return self.served.find("ranker").bundle

    async def score(self, version: str | None = None) -> str:
        request = a_request(5, version=version)
        with self.served.find("ranker", version) as runner:
            loop = asyncio.get_running_loop()
            return (await runner.submit(request, loop.time() + 60)).bundle


def make_runner(scorer: Scorer) -> Runner:
    return Runner(scorer)


def run(scenario: Callable[[Node], Awaitable[None]], **options: Any) -> None:
    """Run a scenario; every scorer that was made must be closed at its end."""

    async def main() -> None:
        shelf, first, free = FakeShelf(), FakeScorer(bundle="1@a"), [64 * MIB]
        runner = Runner(first)
        runner.start()
        served = Served.of({"ranker": runner})
        chosen = RepositoryOptions(
            free=lambda: free[0] if served.line("ranker") else 64 * MIB,
            **{"batch": BatchLimits(max_batch_rows=8), **options},
        )
        repository = Repository(served, make_runner, shelves={"ranker": shelf}, options=chosen)
        node = Node(repository, served, shelf, first, free)
        await scenario(node)
        await repository.unload("ranker")
        await repository.settled()
        assert [scorer.is_closed for scorer in (first, *shelf.made)] == [True] * (
            1 + len(shelf.made)
        )

    asyncio.run(main())


def test_a_load_swaps_the_new_bundle_in_keeps_the_one_before_and_logs_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        assert await node.repository.load("ranker") == "2@b"
        assert (await node.score(), await node.score("1")) == ("2@b", "1@a")
        rows = [(row.bundle, row.state) for row in node.repository.index()]
        assert rows == [("2@b", State.READY), ("1@a", State.READY)]
        assert not node.first.is_closed

    caplog.set_level("INFO", "tierline")
    run(scenario)
    assert "bundle swapped" in caplog.messages


def test_loading_what_is_loaded_loads_nothing() -> None:
    async def scenario(node: Node) -> None:
        assert await node.repository.load("ranker") == "1@a"
        assert node.shelf.made == []

    run(scenario)


def test_a_roll_back_is_at_once_loads_nothing_and_can_be_undone() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        assert node.repository.roll_back("ranker") == "1@a"
        assert await node.score() == "1@a"
        assert node.repository.roll_back("ranker") == "2@b"
        assert len(node.shelf.made) == 1

    run(scenario)


def test_a_channel_rolled_back_while_the_bundle_is_kept_loads_nothing() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        node.shelf.default = "1@a"
        assert await node.repository.load("ranker") == "1@a"
        assert len(node.shelf.made) == 1

    run(scenario)


def test_only_the_last_bundle_before_is_kept() -> None:
    async def scenario(node: Node) -> None:
        for version in ("2@b", "3@c"):
            node.shelf.default = version
            await node.repository.load("ranker")
        await node.repository.settled()
        assert node.first.is_closed
        assert node.repository.roll_back("ranker") == "2@b"

    run(scenario)


def test_a_bundle_taken_out_of_service_leaves_memory() -> None:
    async def scenario(node: Node) -> None:
        for version in ("2@b", "3@c", "4@d"):
            node.shelf.default = version
            await node.repository.load("ranker")
        await node.repository.settled()
        gone = weakref.ref(node.shelf.made.pop(0))
        await until(lambda: gc.collect() >= 0 and gone() is None)

    run(scenario)


def test_the_bundle_before_is_let_go_when_its_time_is_over() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        await until(lambda: node.first.is_closed)
        with pytest.raises(BadRequest, match="no earlier bundle is kept"):
            node.repository.roll_back("ranker")

    run(scenario, hold=0.01)


def test_nothing_is_kept_when_the_options_say_so() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        await node.repository.settled()
        assert node.first.is_closed

    run(scenario, hold=0.0)


def test_a_bundle_is_closed_when_the_last_call_that_holds_it_has_ended() -> None:
    async def scenario(node: Node) -> None:
        node.first.gate.clear()
        call = asyncio.create_task(node.score())
        await until(node.first.entered.is_set)
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        assert await node.score() == "2@b"
        assert not node.first.is_closed
        node.first.gate.set()
        assert await call == "1@a"
        await node.repository.settled()
        assert node.first.is_closed

    run(scenario, hold=0.0)


@pytest.mark.parametrize("fault", ["broken", "poisoned"])
def test_a_failed_load_changes_nothing_and_says_why(fault: str) -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        getattr(node.shelf, fault).add("2@b")
        before = node.served.line("ranker")
        with pytest.raises(ModelFailed, match="model 'ranker' was not loaded"):
            await node.repository.load("ranker")
        assert node.served.line("ranker") is before
        assert await node.score() == "1@a"
        (row,) = node.repository.index()
        assert (row.state, row.reason[:16]) == (State.READY, "loading failed: ")
        assert all(scorer.is_closed for scorer in node.shelf.made)

    run(scenario)


def test_when_one_of_several_bundles_fails_none_is_served() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default, node.shelf.others = "2@b", ("3@c",)
        node.shelf.broken.add("3@c")
        with pytest.raises(ModelFailed, match="3@c is damaged"):
            await node.repository.load("ranker")
        await node.repository.settled()
        assert node.now == "1@a"
        assert [scorer.is_closed for scorer in node.shelf.made] == [True]

    run(scenario)


def test_a_change_that_is_prepared_and_not_made_changes_nothing() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        async with node.repository.prepared({"do": "load", "model": "ranker"}):
            assert await node.score() == "1@a"
        await node.repository.settled()
        assert await node.score() == "1@a"
        assert [scorer.is_closed for scorer in node.shelf.made] == [True]
        async with node.repository.prepared({"do": "load", "model": "ranker"}) as commit:
            assert commit() == "2@b"
        async with node.repository.prepared({"do": "roll-back", "model": "ranker"}):
            pass
        assert await node.score() == "2@b"

    run(scenario)


def test_labels_follow_the_source_once_their_bundles_are_loaded() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.others, node.shelf.labels = ("2@b",), {"stable": "1@a", "canary": "2@b"}
        await node.repository.load("ranker")
        assert await node.score("label:canary") == "2@b"
        assert await node.score("label:stable") == await node.score() == "1@a"
        node.shelf.default, node.shelf.others = "2@b", ()
        node.shelf.labels = {"stable": "2@b", "canary": "2@b"}
        await node.repository.load("ranker")
        assert await node.score("label:stable") == "2@b"

    run(scenario)


def test_a_label_is_moved_by_hand_to_what_is_loaded_only() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        assert node.repository.move_label("ranker", "canary", "1") == "1@a"
        assert await node.score("label:canary") == "1@a"
        with pytest.raises(BadRequest, match="not loaded"):
            node.repository.move_label("ranker", "canary", "3")
        assert await node.score("label:canary") == "1@a"

    run(scenario)


def test_too_little_memory_is_said_before_anything_is_loaded() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default, node.shelf.need = "2@b", 65 * MIB
        with pytest.raises(ModelFailed, match="2@b needs about 65 MiB to load and 64 are free"):
            await node.repository.load("ranker")
        assert node.shelf.made == []
        assert await node.score() == "1@a"

    run(scenario)


def test_what_is_kept_for_a_roll_back_makes_room_first() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        await node.repository.load("ranker")
        node.shelf.default, node.free[0] = "3@c", 0
        with pytest.raises(ModelFailed, match="3@c needs about"):
            await node.repository.load("ranker")
        assert node.first.is_closed
        assert await node.score() == "2@b"

    run(scenario)


def test_told_to_unload_first_a_large_bundle_takes_the_old_ones_place() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        node.free[0] = 0
        assert await node.repository.load("ranker") == "2@b"
        assert node.first.is_closed

    run(scenario, unload_first=True)


def test_a_watched_source_that_moved_is_loaded_once() -> None:
    async def scenario(node: Node) -> None:
        assert await node.repository.look(0.0) == [Seen(model="ranker", bundle="1@a")]
        assert await node.repository.look(1.0) == []
        node.shelf.default = "2@b"
        assert await node.repository.look(2.0) == [Seen(model="ranker", bundle="2@b")]
        assert await node.repository.look(3.0) == []

    run(scenario)


def test_a_watched_source_that_fails_is_tried_again_after_a_while() -> None:
    async def scenario(node: Node) -> None:
        node.shelf.default = "2@b"
        node.shelf.broken.add("2@b")
        (seen,) = await node.repository.look(0.0)
        assert "2@b is damaged" in seen.failure
        assert await node.repository.look(RETRY_AFTER - 1) == []
        node.shelf.broken.clear()
        assert await node.repository.look(RETRY_AFTER) == [Seen(model="ranker", bundle="2@b")]
        assert await node.repository.look(RETRY_AFTER + 1) == []

    run(scenario)


def test_what_was_unloaded_by_hand_stays_so_until_the_source_moves() -> None:
    async def scenario(node: Node) -> None:
        await node.repository.look(0.0)
        await node.repository.unload("ranker")
        assert await node.repository.look(1.0) == []
        node.shelf.stamps += 1
        assert await node.repository.look(2.0) == [Seen(model="ranker", bundle="1@a")]

    run(scenario)


def test_a_scoring_thread_that_died_is_replaced_by_a_load() -> None:
    async def scenario(node: Node) -> None:
        node.served.find("ranker").runner.close(timeout=20)
        assert node.repository.index()[0].state is State.UNAVAILABLE
        assert await node.repository.load("ranker") == "1@a"
        assert await node.score() == "1@a"

    run(scenario)


def test_a_name_the_process_was_not_started_with_is_refused_everywhere() -> None:
    async def scenario(node: Node) -> None:
        attempts: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: node.repository.load("other"),
            lambda: node.repository.unload("other"),
        ]
        for attempt in attempts:
            with pytest.raises(ModelNotFound, match="without a model 'other'; it has ranker"):
                await attempt()
        with pytest.raises(ModelNotFound):
            node.repository.roll_back("other")

    run(scenario)


def test_a_bundle_of_another_model_is_refused_and_closed() -> None:
    async def scenario() -> None:
        stranger = FakeScorer("stranger")
        source: Source = lambda: Loaded(scorer=stranger)  # noqa: E731
        shelves: dict[str, Shelf] = {"ranker": PlainShelf(source)}
        repository = Repository(Served(), make_runner, shelves=shelves)
        with pytest.raises(ModelFailed, match="now holds a bundle of 'stranger'"):
            await repository.load("ranker")
        assert stranger.is_closed

    asyncio.run(scenario())

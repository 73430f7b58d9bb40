"""What `tierline explain` claims, against adversaries that drive the core: never above, reached."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import Answer, CallError, HedgePolicy, Mode, RetryPolicy
from tierline import _exceptions as errors
from tierline._config import ClientConfig, EjectionPolicy, Endpoint, EscalationPolicy, Tier
from tierline._core import explain
from tierline._core.call import ScoreCall
from tierline._core.commands import Finish, StartAttempt, WakeAt
from tierline._core.fleet import Fleet
from tierline.wire import ScoreReply, ScoreRequest

REQUEST = ScoreRequest(
    model="m", query={"history": np.arange(3)}, candidates={"id": np.array([7, 8])}
)
SCORES = np.zeros(2, np.float32)
SURE = ScoreReply("m", "b@1", SCORES, uncertainty=0.1, threshold=0.5)
UNSURE = ScoreReply("m", "b@1", SCORES, uncertainty=0.9, threshold=0.5)
Outcome = ScoreReply | errors.TierlineError
Adversary = Callable[[StartAttempt, int], Outcome]


def refused() -> Outcome:
    return errors.ConnectFailed("refused")


def failed() -> Outcome:
    return errors.Unavailable("draining")


def unsure() -> Outcome:
    return UNSURE


def tiers(edge: Sequence[int], cloud: Sequence[int]) -> tuple[Tier, ...]:
    """Tiers of so many endpoints each."""
    return tuple(
        Tier(
            name=f"{kind}{i}",
            kind=kind,
            endpoints=tuple(Endpoint(url=f"http://{kind}{i}-{j}:1") for j in range(size)),
        )
        for kind, sizes in (("edge", edge), ("cloud", cloud))
        for i, size in enumerate(sizes)
    )


def primed(config: ClientConfig) -> Fleet:
    """A fleet whose budgets hold what earlier calls have earned."""
    fleet = Fleet(config)
    for _ in range(200):
        fleet.calls.add(0.0)
        for tier in fleet.tiers:
            tier.budget.requests.add(0.0)
    return fleet


def drive(
    fleet: Fleet,
    answers: Adversary,
    *,
    mode: Mode = Mode.SEQUENTIAL,
    seed: int = 1,
    at: float = 0.0,
    hangs: bool = False,
) -> Answer | CallError:
    """One call, whose attempts end at once as the adversary says, or hang until given up."""
    call = ScoreCall(
        REQUEST,
        fleet,
        deadline=at + fleet.config.deadline,
        mode=mode,
        key=None,
        call_id="c",
        dice=random.Random(seed),
    )
    now, made = at, 0
    queue = list(call.begin(now))
    while queue:
        command = queue.pop(0)
        if isinstance(command, Finish):
            outcome = command.answer or command.error
            assert outcome is not None
            return outcome
        if isinstance(command, WakeAt):
            now = max(now, command.at)
            queue += call.wake(now)
        elif isinstance(command, StartAttempt):
            made += 1
            now = max(now, command.timeout_at if hangs else now)
            given = answers(command, made)
            if isinstance(given, ScoreReply):
                queue += call.attempt_succeeded(command.number, given, now)
            else:
                queue += call.attempt_failed(command.number, given, now)
    raise AssertionError("the call has not ended")


retries = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 5),
    per_tier=st.integers(1, 3),
    base=st.just(1e-5),
    cap=st.just(1e-5),
    budget=st.sampled_from([0.0, 0.1]),
    floor=st.sampled_from([0.0, 1.0]),
)


@settings(max_examples=80)
@given(
    sizes=st.tuples(
        st.integers(0, 2), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3)
    ).filter(lambda s: s[0] + s[2] > 0),
    retry=retries,
)
def test_the_worst_of_all_adversaries_makes_exactly_the_attempts_claimed(
    sizes: tuple[int, int, int, int], retry: RetryPolicy
) -> None:
    edges, at_edge, clouds, at_cloud = sizes
    config = ClientConfig(tiers=tiers([at_edge] * edges, [at_cloud] * clouds), retry=retry)
    worst = 0
    for mode, script in product(Mode, product((refused, failed, unsure), repeat=retry.attempts)):
        ended = drive(primed(config), _scripted(script), mode=mode)
        worst = max(worst, len(ended.attempts))
    assert worst == explain.most_attempts(config)


def _scripted(script: Sequence[Callable[[], Outcome]]) -> Adversary:
    return lambda start, made: script[made - 1]()


@settings(max_examples=150)
@given(
    edge=st.lists(st.integers(1, 3), max_size=2),
    cloud=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    retry=retries,
    seed=st.integers(0, 2**32),
    hedge=st.sampled_from([None, HedgePolicy(after=0.01, budget=1.0)]),
)
def test_no_call_of_any_fleet_makes_more_attempts_or_takes_longer_than_claimed(
    edge: list[int], cloud: list[int], retry: RetryPolicy, seed: int, hedge: HedgePolicy | None
) -> None:
    config = ClientConfig(tiers=tiers(edge, cloud), retry=retry, hedge=hedge)
    fleet, dice = primed(config), random.Random(seed)
    for i in range(30):
        chosen = dice.choices((refused, failed, unsure), k=10)
        hangs, at, mode = dice.random() < 0.3, i * 0.3, dice.choice(list(Mode))
        ended = drive(fleet, _scripted(chosen), mode=mode, seed=seed + i, at=at, hangs=hangs)
        assert len(ended.attempts) <= explain.most_attempts(config)
        assert ended.elapsed <= config.deadline


@pytest.mark.parametrize("seconds", [5, 35])
def test_what_retries_add_over_time_is_what_was_claimed(seconds: int) -> None:
    config = ClientConfig(tiers=tiers([3], []), deadline=0.04, retry=RetryPolicy(base=1e-5))
    fleet, calls, made = Fleet(config), 0, 0
    for i in range(seconds * 20):
        ended = drive(fleet, lambda *_: errors.Overloaded("full"), at=i / 20, seed=i)
        calls, made = calls + 1, made + len(ended.attempts)
    claimed = explain.extra_attempts(config, calls=calls, seconds=seconds)
    assert claimed - config.retry.floor * explain.SLACK - 1 <= made - calls <= claimed


@pytest.mark.parametrize("seconds", [5, 35])
def test_what_is_spent_on_escalations_is_what_was_claimed(seconds: int) -> None:
    policy = EscalationPolicy(ease_below=0.0)
    config = ClientConfig(tiers=tiers([1], [1]), deadline=0.04, escalation=policy)
    fleet, spent = Fleet(config), 0
    calls = seconds * 20

    def doubt(start: StartAttempt, made: int) -> Outcome:
        return UNSURE if start.endpoint.tier == "edge0" else SURE

    for i in range(calls):
        ended = drive(fleet, doubt, at=i / 20)
        spent += sum(attempt.kind == "escalation" for attempt in ended.attempts)
    claimed = explain.escalations(config, calls=calls, seconds=seconds)
    slack = policy.allowance * explain.SLACK / explain.WINDOW + 1
    assert claimed - slack <= spent <= claimed
    none = ClientConfig(tiers=tiers([1], []), escalation=policy)
    assert explain.escalations(none, calls=calls, seconds=seconds) == 0.0


@pytest.mark.parametrize("burst", [1.0, 7.0])
def test_a_hard_cap_is_spent_to_the_last_call_and_not_beyond(burst: float) -> None:
    policy = EscalationPolicy(mode="quality_first", budget=0.1, cap=0.25, burst=burst)
    config = ClientConfig(tiers=tiers([1], [1]), deadline=0.04, escalation=policy)
    fleet, spent = Fleet(config), 0

    def doubt(start: StartAttempt, made: int) -> Outcome:
        return UNSURE if start.endpoint.tier == "edge0" else SURE

    for i in range(400):
        ended = drive(fleet, doubt, at=i / 20)
        spent += sum(attempt.kind == "escalation" for attempt in ended.attempts)
    claimed = explain.escalations(config, calls=400, seconds=20)
    assert claimed == 0.25 * 400 + burst
    assert claimed - 1 <= spent <= claimed


def test_retries_of_escalations_are_part_of_what_was_claimed() -> None:
    config = ClientConfig(
        tiers=tiers([2], [2]),
        deadline=0.04,
        retry=RetryPolicy(base=1e-5, floor=0.0, budget=0.2),
        escalation=EscalationPolicy(ease_below=0.0, budget=1.0),
    )
    fleet, extra, calls, escalated = Fleet(config), 0, 2000, 0

    def trouble(start: StartAttempt, made: int) -> Outcome:
        at_edge = start.endpoint.tier == "edge0"
        return UNSURE if at_edge and turn % 5 else errors.Overloaded("full")

    for turn in range(calls):
        kinds = [attempt.kind for attempt in drive(fleet, trouble, at=turn / 100).attempts]
        escalated += "escalation" in kinds
        extra += len(kinds) - 1 - ("escalation" in kinds)
    claimed = explain.extra_attempts(config, calls=calls, seconds=calls / 100)
    assert config.retry.budget * calls < extra <= claimed
    assert escalated <= explain.escalations(config, calls=calls, seconds=calls / 100)


@given(
    edge=st.lists(st.integers(1, 3), max_size=2),
    cloud=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    retry=retries.filter(lambda retry: retry.floor > 0),
)
def test_when_every_attempt_hangs_the_chain_is_the_one_foretold(
    edge: list[int], cloud: list[int], retry: RetryPolicy
) -> None:
    config = ClientConfig(tiers=tiers(edge, cloud), retry=retry)
    ended = drive(primed(config), lambda *_: errors.AttemptTimedOut("late"), hangs=True)
    chain = explain.longest_chain(config)
    assert [attempt.tier for attempt in ended.attempts] == [step.tier for step in chain]
    for attempt, step in zip(ended.attempts, chain, strict=True):
        assert attempt.started == pytest.approx(step.started, abs=1e-4)
        assert attempt.ended == pytest.approx(step.ended, abs=1e-4)


@pytest.mark.parametrize("panic", ["ignore", "fail"])
@pytest.mark.parametrize(
    ("edge", "cloud", "retry"),
    [
        ([3], [1], RetryPolicy(base=1e-5, floor=20.0)),
        ([2], [], RetryPolicy(base=1e-5, floor=20.0)),
        ([2], [2], RetryPolicy(attempts=3, base=1e-5, floor=20.0)),
        ([1], [1, 1], RetryPolicy(base=1e-5, floor=20.0)),
        ([4], [1], RetryPolicy(attempts=2, base=1e-5, floor=20.0)),
        ([4], [], RetryPolicy(per_tier=4, base=1e-5, floor=20.0)),
        ([2], [1], RetryPolicy(budget=0.0, floor=0.0)),
    ],
)
def test_what_is_left_with_k_endpoints_down_is_what_was_claimed(
    edge: list[int], cloud: list[int], retry: RetryPolicy, panic: str
) -> None:
    config = ClientConfig(
        tiers=tiers(edge, cloud),
        retry=retry,
        ejection=EjectionPolicy(panic="fail" if panic == "fail" else "ignore"),
    )
    urls = [endpoint.url for tier in config.tiers for endpoint in tier.endpoints]
    for loss in explain.availability(config):
        new, later = True, True
        for down in combinations(urls, loss.down):
            for seed in range(8):
                new = new and _answered(primed(config), down, seed, 0.0)
            fleet = learnt(config, down)
            later = later and all(_answered(fleet, down, i, 0.1 + i * 0.01) for i in range(20))
        assert (loss.down, new, later) == (loss.down, loss.at_once, loss.settled)


def learnt(config: ClientConfig, down: Sequence[str]) -> Fleet:
    """A fleet whose breakers have just opened for those that are down."""
    fleet = primed(config)
    for endpoint in fleet.endpoints():
        breaker = endpoint.breaker(REQUEST.model)
        for _ in range(config.breaker.consecutive if endpoint.url in down else 0):
            permit = breaker.acquire(0.0, 1.0)
            assert permit is not None
            breaker.failed(permit, 0.0, 0.5)
    return fleet


def _answered(fleet: Fleet, down: Sequence[str], seed: int, at: float) -> bool:
    def broken(start: StartAttempt, made: int) -> Outcome:
        return failed() if start.endpoint.url in down else SURE

    return isinstance(drive(fleet, broken, seed=seed, at=at), Answer)


def test_which_kind_of_tier_may_be_lost_is_said() -> None:
    losses = explain.availability(ClientConfig(tiers=tiers([2], [3])))
    assert [loss.loses_edge for loss in losses] == [False, False, True, True, True, True]
    assert [loss.loses_cloud for loss in losses] == [False, False, False, True, True, True]

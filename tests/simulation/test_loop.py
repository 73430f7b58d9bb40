"""The virtual-time loop: time jumps, order follows the seed, a deadlock is an error."""

from __future__ import annotations

import asyncio

import pytest

from tierline.testing import Deadlock, SimLoop


async def racers(log: list[int]) -> None:
    """Eight tasks that all become ready at the same instants."""

    async def run(number: int) -> None:
        for _ in range(4):
            await asyncio.sleep(1.0)
            log.append(number)

    await asyncio.gather(*(run(i) for i in range(8)))


def order_of(seed: int) -> list[int]:
    log: list[int] = []
    SimLoop(seed).run(racers(log))
    return log


def test_time_jumps_from_timer_to_timer() -> None:
    loop = SimLoop(1)
    loop.run(asyncio.sleep(1_000_000.0))
    assert loop.time() == 1_000_000.0


def test_one_seed_gives_one_order_and_another_seed_another() -> None:
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(5)}) == 5


def test_without_shuffling_tasks_run_in_the_order_they_were_made() -> None:
    log: list[int] = []

    async def line_up() -> None:
        for number in range(8):
            asyncio.get_running_loop().call_soon(log.append, number)
        await asyncio.sleep(0.0)

    SimLoop(shuffle=False).run(line_up())
    assert log == list(range(8))


def test_waiting_for_nothing_is_a_deadlock() -> None:
    async def wait_forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="nothing is ready"):
        SimLoop(1).run(wait_forever())


def test_a_stall_lets_time_pass_and_runs_nothing() -> None:
    loop = SimLoop(1)
    seen: list[float] = []

    async def stalled() -> None:
        loop.call_later(1.0, lambda: seen.append(loop.time()))
        loop.call_later(0.5, loop.stall, 2.0)
        await asyncio.sleep(3.0)

    loop.run(stalled())
    assert seen == [2.5]


def test_an_error_nobody_takes_is_remembered() -> None:
    loop = SimLoop(1)

    async def careless() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    loop.run(careless())
    assert len(loop.complaints) == 1
    assert "ZeroDivisionError" in loop.complaints[0]


def test_a_timeout_in_virtual_time_cancels_what_it_guards() -> None:
    async def too_slow() -> None:
        async with asyncio.timeout(0.25):
            await asyncio.sleep(9.0)

    loop = SimLoop(1)
    with pytest.raises(TimeoutError):
        loop.run(too_slow())
    assert loop.time() == 0.25

"""Client CPU of one score call: core + codec + HTTP, 16 callers, loopback, 100 candidates × 64.

Rows: Tierline's sync and asyncio clients over the lean transport and over httpx, and plain sockets
that send the same bytes and read the same answer, which is the bare limit. The server has a core of
its own; the figure is the CPU time of this process (user + system) per call. Then: what an embedded
call costs beyond the bare ONNX session, and whether random cancellations leak anything.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

import tierline
from tierline.wire import ScoreRequest, encode_request

HERE = Path(__file__).resolve().parent
CALLERS = 16
CANDIDATES, FEATURES = 100, 64
SEED = 7


def main() -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/client_call/run.py --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", type=int, default=4000, help="calls a row and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cancellations", type=int, default=100_000)
    parser.add_argument("--json", metavar="-|PATH", default="", help="write the figures as JSON")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    figures: dict[str, object] = {"settings": settings(options)}
    say(f"settings: {json.dumps(figures['settings'])}")
    with echo_server(cores[0], 0.0) as port:
        measure_rows(port, options, figures)
    from embedded import embedded_overhead

    figures.update(embedded_overhead(np.random.default_rng(SEED), options.repeats))
    say(f"embedded: {figures['embedded_overhead_us']:.1f} µs a call beyond the bare session")
    with echo_server(cores[0], 0.002) as port:
        before = descriptors()
        left = asyncio.run(cancellations(port, options.cancellations))
        left["leaked_after_cancellations"] += descriptors() - before
        figures.update(left)
    say(
        f"cancelled {figures['cancelled']} calls, {figures['answered_meanwhile']} came through; "
        f"left behind: {figures['leaked_after_cancellations']}"
    )
    if options.json == "-":
        sys.stdout.write(json.dumps(figures) + "\n")
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def settings(options: argparse.Namespace) -> dict[str, object]:
    return {
        "seed": SEED,
        "callers": CALLERS,
        "calls": options.calls,
        "repeats": options.repeats,
        "warm_up": "one uncounted repeat a row",
        "candidates": CANDIDATES,
        "features": FEATURES,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "httpx": httpx.__version__,
        "tierline": tierline.__version__,
    }


def measure_rows(port: int, options: argparse.Namespace, figures: dict[str, object]) -> None:
    rows: tuple[tuple[str, Callable[[int, int], None]], ...] = (
        ("sockets_sync_us", plain_sockets),
        ("sockets_async_us", lambda p, n: asyncio.run(plain_streams(p, n))),
        ("sync_lean_us", lambda p, n: sync_calls(p, n, "lean")),
        ("async_lean_us", lambda p, n: asyncio.run(async_calls(p, n, "lean"))),
        ("sync_httpx_us", lambda p, n: sync_calls(p, n, "httpx")),
        ("async_httpx_us", lambda p, n: asyncio.run(async_calls(p, n, "httpx"))),
    )
    say(f"{'client':<18}{'CPU µs a call':>14}{'min':>8}{'max':>8}{'wall µs':>9}")
    for name, row in rows:
        calls = options.calls // 4 if "httpx" in name else options.calls
        row(port, calls)
        samples, walls = [], []
        for _ in range(options.repeats):
            gc.collect()
            cpu, wall = cpu_seconds(), time.perf_counter()
            row(port, calls)
            samples.append((cpu_seconds() - cpu) / calls * 1e6)
            walls.append((time.perf_counter() - wall) / calls * 1e6)
        figures[name] = statistics.median(samples)
        figures[f"{name}_spread"] = [min(samples), max(samples)]
        low, high = min(samples), max(samples)
        wall_us = statistics.median(walls)
        say(f"{name:<18}{figures[name]:>14.1f}{low:>8.1f}{high:>8.1f}{wall_us:>9.1f}")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def echo_server(core: int, delay: float) -> Iterator[int]:
    command = [sys.executable, str(HERE / "echo_server.py"), str(core), str(CANDIDATES), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(SEED)
    query = {"user": rng.standard_normal(FEATURES, np.float32)}
    return query, {"item": rng.standard_normal((CANDIDATES, FEATURES), np.float32)}


def in_threads(one: Callable[[], None], calls: int) -> None:
    def work() -> None:
        for _ in range(calls // CALLERS):
            one()

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def sync_calls(port: int, calls: int, transport: str) -> None:
    query, candidates = inputs()
    options = {"edge": [f"http://127.0.0.1:{port}"], "deadline": 10.0, "transport": transport}
    with tierline.Client(**options) as client:  # type: ignore[arg-type]
        in_threads(lambda: check(client.score("ranker", query=query, candidates=candidates)), calls)


async def async_calls(port: int, calls: int, transport: str) -> None:
    query, candidates = inputs()
    options = {"edge": [f"http://127.0.0.1:{port}"], "deadline": 10.0, "transport": transport}
    async with tierline.AsyncClient(**options) as client:  # type: ignore[arg-type]

        async def work() -> None:
            for _ in range(calls // CALLERS):
                check(await client.score("ranker", query=query, candidates=candidates))

        await asyncio.gather(*(work() for _ in range(CALLERS)))


def check(answer: tierline.Answer) -> None:
    if answer.tier != "edge" or len(answer.scores) != CANDIDATES:
        raise SystemExit(f"the echo server was not the one to answer: {answer}")


def wire_bytes() -> list[bytes]:
    query, candidates = inputs()
    parts = encode_request(ScoreRequest(model="ranker", query=query, candidates=candidates))
    size = sum(memoryview(part).nbytes for part in parts)
    head = f"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    return [head.encode(), b"".join(parts)]


def plain_sockets(port: int, calls: int) -> None:
    message = wire_bytes()
    local = threading.local()

    def one() -> None:
        if not hasattr(local, "socket"):
            local.socket = socket.create_connection(("127.0.0.1", port))
            local.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local.socket.sendmsg(message)
        local.socket.recv(65536)

    in_threads(one, calls)


async def plain_streams(port: int, calls: int) -> None:
    message = wire_bytes()

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(calls // CALLERS):
            writer.writelines(message)
            await reader.read(65536)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(work() for _ in range(CALLERS)))


async def cancellations(port: int, wanted: int) -> dict[str, int]:
    """As many calls cancelled at random instants as wanted; then no attempt may be under way and
    no task be left."""
    query, candidates = inputs()
    dice = random.Random(SEED)
    url = f"http://127.0.0.1:{port}"
    cancelled = answered = 0
    async with tierline.AsyncClient(edge=[url], deadline=10.0) as client:
        before = len(asyncio.all_tasks())

        async def one() -> None:
            nonlocal cancelled, answered
            call = asyncio.ensure_future(client.score("ranker", query=query, candidates=candidates))
            asyncio.get_running_loop().call_later(dice.random() * 0.02, call.cancel)
            try:
                await call
                answered += 1
            except asyncio.CancelledError:
                cancelled += 1

        async def work() -> None:
            while cancelled < wanted:
                await one()

        await asyncio.gather(*(work() for _ in range(64)))
        answer = await client.score("ranker", query=query, candidates=candidates)
        check(answer)
        [endpoint] = client._fleet.endpoints()
        leaked = endpoint.inflight + len(asyncio.all_tasks()) - before
    return {
        "cancelled": cancelled,
        "answered_meanwhile": answered,
        "leaked_after_cancellations": leaked,
    }


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

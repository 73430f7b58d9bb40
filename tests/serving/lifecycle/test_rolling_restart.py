"""Two real endpoints restarted in turn under load: no call of the SDK fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import Served, running_fake

import tierline

PATIENCE = 60.0


@dataclass
class Load:
    """Callers who never pause."""

    client: tierline.Client
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def call(self) -> None:
        while not self.is_over.is_set():
            try:
                answer = self.client.score("ranker", query={"history": [1]}, candidates=[7, 8])
                assert answer.scores.tolist() == [7.0, 8.0]
            except tierline.TierlineError as error:
                self.failures.append(repr(error))
            with self.progress:
                self.answered += 1
                self.progress.notify_all()

    def wait_for(self, more: int) -> None:
        with self.progress:
            goal = self.answered + more
            assert self.progress.wait_for(lambda: self.answered >= goal, timeout=PATIENCE)


@contextmanager
def load_on(*nodes: Served) -> Iterator[Load]:
    urls = [f"http://{node.address}" for node in nodes]
    with tierline.Client(edge=urls, deadline=20.0) as client:
        load = Load(client)
        threads = [threading.Thread(target=load.call) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.is_over.set()
            for thread in threads:
                thread.join()


@pytest.mark.nightly
def test_no_call_fails_while_endpoints_restart_in_turn(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_fake(tmp_path, lame_duck=0.3)) for _ in range(2)]
        with load_on(*nodes) as load:
            for node in nodes:
                load.wait_for(30)
                node.process.terminate()
                assert node.process.wait(PATIENCE) == 0
                # The same address again, as a restarted process has it.
                stack.enter_context(running_fake(tmp_path, port=node.port, lame_duck=0.3))
            load.wait_for(100)
        assert load.failures == []

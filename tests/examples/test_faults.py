"""Faults come when their share of the calls is answered, once, and in order."""

from __future__ import annotations

from faults import Director, Event, Fault


def test_each_fault_acts_once_when_its_share_of_the_calls_is_answered() -> None:
    acted: list[str] = []
    faults = [
        Fault(share=0.2, label="cut", act=lambda: acted.append("cut")),
        Fault(share=0.5, label="kill", act=lambda: acted.append("kill")),
    ]
    director = Director(faults=faults, total=100)
    seen = [director.step(done, at=done / 10) for done in (0, 19, 20, 21, 49, 50, 100)]
    assert acted == ["cut", "kill"]
    assert [bool(events) for events in seen] == [False, False, True, False, False, True, False]
    assert director.events == [Event(at=2.0, label="cut"), Event(at=5.0, label="kill")]


def test_faults_passed_over_in_one_step_all_act_in_order() -> None:
    faults = [Fault(share=share, label=str(share), act=lambda: None) for share in (0.1, 0.2, 0.3)]
    events = Director(faults=faults, total=10).step(10, at=1.0)
    assert [event.label for event in events] == ["0.1", "0.2", "0.3"]


def test_a_restarted_server_is_reported_once_when_it_is_ready() -> None:
    answers = iter([False, False, True])
    director = Director(faults=[], total=10)
    director.awaited["edge-1 ready again"] = lambda: next(answers)
    seen = [director.step(0, at=float(step)) for step in range(5)]
    assert [[event.label for event in events] for events in seen] == [
        [], [], ["edge-1 ready again"], [], [],
    ]  # fmt: skip

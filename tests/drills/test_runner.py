"""The runner, on a clock of its own: rollbacks always, stops at once, a deviation is no pass."""

from __future__ import annotations

from typing import Any

import pytest

from tierline_drills.errors import NotHere
from tierline_drills.experiment import Activity, parse_experiment
from tierline_drills.runner import Runner, passed


class Stage:
    """Performs activities by name, and keeps what it was asked to do."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.done: list[str] = []
        self.now = 0.0

    def do(self, activity: Activity) -> Any:
        self.done.append(activity.name)
        value = self.values.get(activity.name)
        if isinstance(value, BaseException):
            raise value
        return value(self) if callable(value) else value

    def wait(self, seconds: float) -> None:
        self.now += seconds


def activity(name: str, kind: str = "action", **more: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": "stage", "func": name}
    return {"type": kind, "name": name, "provider": provider, **more}


def runner(stage: Stage, **more: Any) -> Runner:
    document = {
        "title": "t",
        "description": "d",
        "steady-state-hypothesis": {
            "title": "up",
            "probes": [activity("healthy", "probe", tolerance=True)],
        },
        "method": [activity("break", pauses={"after": 5}), activity("later")],
        "rollbacks": [activity("mend")],
        **more,
    }
    return Runner(parse_experiment(document), do=stage.do, wait=stage.wait, clock=lambda: stage.now)


def stopping(tolerance: object) -> list[dict[str, Any]]:
    return [{"name": "tierline", "stop": [activity("burnt", "probe", tolerance=tolerance)]}]


def test_a_run_asks_breaks_asks_again_and_mends() -> None:
    stage = Stage(healthy=True)
    journal = runner(stage).run()
    assert stage.done == ["healthy", "break", "later", "healthy", "mend"]
    assert passed(journal)
    assert journal["duration"] == 5.0


def test_a_hypothesis_that_fails_first_breaks_nothing_but_mends() -> None:
    stage = Stage(healthy=False)
    journal = runner(stage).run()
    assert stage.done == ["healthy", "mend"]
    assert journal["status"] == "failed"


def test_completed_is_not_passed_when_the_hypothesis_is_gone_afterwards() -> None:
    stage = Stage(healthy=lambda stage: "break" not in stage.done)
    journal = runner(stage).run()
    assert (journal["status"], journal["deviated"]) == ("completed", True)
    assert not passed(journal)


def test_an_action_that_fails_ends_the_method_and_is_rolled_back() -> None:
    stage = Stage(healthy=True, **{"break": OSError("no such process")})
    journal = runner(stage).run()
    assert stage.done == ["healthy", "break", "mend"]
    assert (journal["status"], "no such process" in journal["why"]) == ("failed", True)


def test_ctrl_c_in_the_method_still_rolls_back() -> None:
    stage = Stage(healthy=True, later=KeyboardInterrupt())
    drill = runner(stage)
    with pytest.raises(KeyboardInterrupt):
        drill.run()
    assert stage.done[-1] == "mend"
    assert drill.journal["status"] == "interrupted"


def test_a_stop_condition_ends_the_method_within_a_pause() -> None:
    stage = Stage(healthy=True, burnt=lambda stage: stage.now)
    journal = runner(stage, extensions=stopping({"type": "range", "range": [0, 2]})).run()
    assert "later" not in stage.done
    assert stage.done[-1] == "mend"
    assert journal["status"] == "aborted"
    assert stage.now == pytest.approx(2.25)


def test_what_this_machine_cannot_do_is_skipped_with_the_reason() -> None:
    stage = Stage(healthy=True, **{"break": NotHere("network namespaces need root")})
    journal = runner(stage).run()
    assert (journal["status"], journal["why"]) == ("skipped", "network namespaces need root")
    assert stage.done[-1] == "mend"


@pytest.mark.parametrize(
    ("strategy", "healthy", "mended"),
    [
        ("never", True, False),
        ("deviated", True, False),
        ("default", True, True),
        ("default", False, False),
    ],
)
def test_the_stock_strategies_are_kept(strategy: str, healthy: bool, mended: bool) -> None:
    stage = Stage(healthy=healthy)
    runner(stage, runtime={"rollbacks": {"strategy": strategy}}).run()
    assert ("mend" in stage.done) is mended


def test_a_background_activity_is_waited_for_in_the_end() -> None:
    stage = Stage(healthy=True)
    method = [activity("watch", "probe", background=True), activity("break")]
    journal = runner(stage, method=method).run()
    assert {row["activity"]["name"] for row in journal["run"]} == {"watch", "break"}


def test_a_tolerance_may_be_a_probe_of_its_own() -> None:
    judge = {"type": "probe", "name": "judge", "provider": activity("x")["provider"]}
    probes = [activity("healthy", "probe", tolerance=judge)]
    stage = Stage(healthy=True)
    journal = runner(stage, **{"steady-state-hypothesis": {"title": "", "probes": probes}}).run()
    assert journal["deviated"] is False

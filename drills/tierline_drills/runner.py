"""Carries out an experiment: hypothesis, method, hypothesis again, and rollbacks always.

The journal it returns is Chaos Toolkit's. Two differences, both stricter: with the strategy
"always" (the default here) rollbacks run whatever happened, Ctrl-C and a failed first hypothesis
included; and a stop condition ends the method at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tierline_drills.activities import Perform, call_with, module_of, perform
from tierline_drills.errors import BadExperiment, DrillError, NotHere
from tierline_drills.experiment import Activity, Control, Experiment
from tierline_drills.tolerances import tolerated

STOP_EVERY = 0.25  # seconds between two looks at the stop conditions
BACKGROUND_TIMEOUT = 600.0  # seconds an activity in the background may take in the end

Journal = dict[str, Any]
Waiting = Callable[[float], None]


class Stopped(DrillError):
    """A stop condition was out of tolerance: the method ends here."""


@dataclass(slots=True)
class Runner:
    """Carries out one experiment. ``do`` performs an activity, ``wait`` pauses, ``clock`` is
    monotonic seconds: a test hands over its own."""

    experiment: Experiment
    do: Perform = perform
    wait: Waiting = time.sleep
    clock: Callable[[], float] = time.monotonic
    journal: Journal = field(default_factory=dict)
    _background: list[threading.Thread] = field(default_factory=list)
    _looked: float = float("-inf")
    _stoppable: bool = False  # only while the method runs

    def run(self) -> Journal:
        """Do it all; returns the journal. Its ``status`` is completed, failed (a probe or action
        could not be carried out), interrupted or skipped; ``deviated`` says the hypothesis did not
        hold. Raises KeyboardInterrupt again once the rollbacks are done."""
        experiment, journal = self.experiment, self.journal
        began = self.clock()
        journal |= {
            "chaoslib-version": "tierline",
            "experiment": experiment.document,
            "start": datetime.now(UTC).isoformat(),
            "status": "completed",
            "deviated": False,
            "steady_states": {"before": None, "after": None, "during": []},
            "run": [],
            "rollbacks": [],
        }
        interrupted: BaseException | None = None
        try:
            self._configure()
            self._around("experiment", self._body, experiment.document)
        except Stopped as stop:
            journal |= {"status": "aborted", "deviated": True, "why": str(stop)}
        except NotHere as absent:
            journal |= {"status": "skipped", "why": str(absent)}
        except (KeyboardInterrupt, SystemExit) as error:
            journal |= {"status": "interrupted", "why": type(error).__name__}
            interrupted = error
        finally:
            self._cleanup()
        journal |= {"end": datetime.now(UTC).isoformat(), "duration": self.clock() - began}
        if interrupted is not None:
            raise interrupted
        return journal

    def _body(self) -> None:
        try:
            if self._hypothesis("before"):
                self._around("method", self._method, self.experiment.document)
                if not self._hypothesis("after"):
                    self.journal["deviated"] = True
            else:
                self.journal["status"] = "failed"
        except Failed as error:
            self.journal |= {"status": "failed", "why": str(error)}
        finally:
            if self._rolls_back():
                self._around("rollback", self._roll_back, self.experiment.document)

    def _rolls_back(self) -> bool:
        strategy = self.experiment.strategy
        if strategy == "default":
            return bool(self.journal["status"] == "completed")
        if strategy == "deviated":
            return bool(self.journal["deviated"])
        return strategy == "always"

    # -- the parts ---------------------------------------------------------------------------

    def _hypothesis(self, when: str) -> bool:
        """Ask every probe; True when all are within tolerance."""
        rows: list[Journal] = []
        met = True

        def ask() -> None:
            nonlocal met
            for probe in self.experiment.probes:
                row = self._activity(probe)
                within = row["status"] == "succeeded" and self._within(probe, row["output"])
                row["tolerance_met"] = within
                rows.append(row)
                met = met and within

        self._around("hypothesis", ask, self.experiment.document)
        self.journal["steady_states"][when] = {"steady_state_met": met, "probes": rows}
        return met

    def _method(self) -> None:
        rows = self.journal["run"]
        self._stoppable = bool(self.experiment.stops)
        try:
            for activity in self.experiment.method:
                self._check_stops()
                if activity.background:
                    thread = threading.Thread(target=self._append, args=(rows, activity))
                    thread.start()
                    self._background.append(thread)
                    continue
                self._append(rows, activity)
                if rows[-1]["status"] != "succeeded" and activity.kind == "action":
                    raise Failed(f"{activity.name}: {rows[-1].get('exception')}")
            self._check_stops()
        finally:
            self._stoppable = False
            for thread in self._background:
                thread.join(BACKGROUND_TIMEOUT)

    def _roll_back(self) -> None:
        for activity in self.experiment.rollbacks:
            self._append(self.journal["rollbacks"], activity)

    def _append(self, rows: list[Journal], activity: Activity) -> None:
        rows.append(self._activity(activity))

    def _activity(self, activity: Activity) -> Journal:
        row: Journal = {
            "activity": {"type": activity.kind, "name": activity.name},
            "start": datetime.now(UTC).isoformat(),
        }
        began = self.clock()
        self._pause(activity.before)
        self._notify("before_activity_control", {"type": activity.kind, "name": activity.name})
        try:
            row |= {"output": self.do(activity), "status": "succeeded"}
        except NotHere:
            raise
        except BadExperiment:
            raise
        except Exception as error:  # the provider's, whatever it is: the journal tells it
            row |= {"output": None, "status": "failed", "exception": f"{error!r}"}
        self._notify("after_activity_control", {"type": activity.kind, "name": activity.name})
        self._pause(activity.after)
        row |= {"end": datetime.now(UTC).isoformat(), "duration": self.clock() - began}
        return row

    def _pause(self, seconds: float) -> None:
        """Wait, looking at the stop conditions meanwhile."""
        until = self.clock() + seconds
        while (left := until - self.clock()) > 0:
            self._check_stops()
            self.wait(min(left, STOP_EVERY) if self._stoppable else left)

    def _check_stops(self) -> None:
        if not self._stoppable or self.clock() - self._looked < STOP_EVERY:
            return
        self._looked = self.clock()
        for probe in self.experiment.stops:
            value = self.do(probe)
            if not self._within(probe, value):
                raise Stopped(f"{probe.name}: {value!r} is not within {probe.tolerance!r}")

    def _within(self, probe: Activity, value: Any) -> bool:
        tolerance = probe.tolerance
        if isinstance(tolerance, dict) and tolerance.get("type") == "probe":
            inner = {**tolerance, "provider": dict(tolerance["provider"])}
            arguments = {**(inner["provider"].get("arguments") or {}), "value": value}
            inner["provider"]["arguments"] = arguments
            return bool(
                self.do(Activity(kind="probe", name=probe.name, provider=inner["provider"]))
            )
        return tolerated(tolerance, value)

    # -- controls ----------------------------------------------------------------------------

    def _around(self, what: str, act: Callable[[], None], context: Any) -> None:
        self._notify(f"before_{what}_control", context)
        try:
            act()
        finally:
            self._notify(f"after_{what}_control", context, state=self.journal)

    def _configure(self) -> None:
        for control in self.experiment.controls:
            module_of(control.module)
            self._call(control, "configure_control", {})

    def _cleanup(self) -> None:
        for control in self.experiment.controls:
            self._call(control, "cleanup_control", {})

    def _notify(self, name: str, context: Any, state: Any = None) -> None:
        for control in self.experiment.controls:
            self._call(control, name, {"context": context, "state": state})

    def _call(self, control: Control, name: str, offered: dict[str, Any]) -> None:
        function = getattr(module_of(control.module), name, None)
        if function is None:
            return  # a control has only the functions it has a use for
        settings = {
            "experiment": self.experiment.document,
            "configuration": self.experiment.configuration,
            "secrets": {},
        }
        call_with(function, {**settings, **offered, **control.arguments})


class Failed(DrillError):
    """An action could not be carried out: the method ends here."""


def passed(journal: Journal) -> bool:
    """Whether a run completed and its hypothesis held after it: "completed" alone is not passed."""
    return journal["status"] == "completed" and not journal["deviated"]


def summary(journals: Sequence[Journal]) -> str:
    """One line about the runs of one experiment."""
    good = sum(map(passed, journals))
    return f"{good} of {len(journals)} runs held the hypothesis"

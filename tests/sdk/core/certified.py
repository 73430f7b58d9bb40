"""A fleet that has heard of a certificate, and calls that are driven through it to their end."""

from __future__ import annotations

from typing import Any

from tierline._config import EscalationPolicy
from tierline._core.commands import Finish, StartAttempt
from tierline._core.fleet import Fleet
from tierline._exceptions import TierlineError
from tierline._types import Answer
from tierline.certificate import CertificateStatus
from tierline.wire import ScoreReply

from .certificates import CLOUD_BUNDLE, CLOUD_LIST, EDGE_BUNDLE, RECOMMEND, edge_description
from .fixtures import PRIVATE, Driver, config

FIXED = EscalationPolicy(burst=1e6)


def certified(policy: EscalationPolicy = FIXED, cloud: str = CLOUD_BUNDLE, **told: Any) -> Fleet:
    """A fleet that has heard of the certificate and of the cloud's bundle."""
    fleet = Fleet(config(escalation=policy))
    control = fleet.control("ranker")
    control.of(EDGE_BUNDLE, 0.5)
    control.edge_described(EDGE_BUNDLE, edge_description(**told))
    control.cloud_answered(PRIVATE, cloud)
    return fleet


def ask(fleet: Fleet, edge: ScoreReply, cloud: ScoreReply = CLOUD_LIST, **options: Any) -> Answer:
    """One call: the edge answers this, and the cloud that."""
    options.setdefault("key", None)
    driver = Driver(fleet, **{"request": RECOMMEND, **options}).succeed(edge)
    while any(isinstance(command, StartAttempt) for command in driver.commands):
        driver.succeed(cloud)
    return driver.answer


def failing(driver: Driver, error: TierlineError) -> Answer:
    """The same, when every further attempt ends so."""
    while not any(isinstance(command, Finish) for command in driver.commands):
        [command] = driver.commands
        if isinstance(command, StartAttempt):
            driver.fail(error, at=0.02)
        else:
            driver.commands = driver.call.wake(command.at)
    return driver.answer


def status(answer: Answer) -> CertificateStatus:
    assert answer.certificate is not None
    return answer.certificate

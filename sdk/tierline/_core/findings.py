"""Which combinations of settings are unsafe: some no client may be made with, some no fleet should
run with, and some that only deserve a word. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from tierline._config import ClientConfig, Tier
from tierline._core.escalation import START_GATE
from tierline._core.explain import (
    endpoints_reached,
    escalates,
    is_paired,
    longest_chain,
    most_attempts,
    never_asked,
    permitted,
)
from tierline._exceptions import ConfigurationError
from tierline._sovereignty import FieldRule

SAFE_SHARE: Final = 0.20  # Envoy's retry budget; above it an outage is answered with a storm
SAFE_EXTRA: Final = 100.0  # attempts a second that the floors of all processes may add
LOCAL: Final = ("http://127.", "http://localhost", "http://[::1]")


class Level(StrEnum):
    """How bad it is."""

    REFUSED = "refused"  # no client is made with it
    UNSAFE = "unsafe"  # a client works, but not safely
    NOTE = "note"


class Finding(NamedTuple):
    """One combination: the key to change, and a sentence saying why."""

    level: Level
    key: str
    sentence: str


def checked(config: ClientConfig) -> ClientConfig:
    """The configuration as it is. Raises ConfigurationError when a client that goes by it could
    never do its work."""
    for finding in _refused(config):
        raise ConfigurationError(finding.sentence, key=finding.key)
    return config


def findings(
    config: ClientConfig, *, processes: int = 1, most_extra: float = SAFE_EXTRA
) -> list[Finding]:
    """Everything worth saying of a configuration that so many ``processes`` run with; the floors
    of all of them together should not add more than ``most_extra`` attempts a second."""
    found = [*_refused(config), *_of_load(config, processes, most_extra), *_of_data(config)]
    drawn = config.sovereignty.secret_is_drawn
    if drawn and processes > 1:
        said = "is drawn for each process: their pseudonyms differ, and change with every restart"
        found.append(Finding(Level.NOTE, "sovereignty.secret", said))
    return [*found, *_of_time(config), *_of_escalation(config)]


def _refused(config: ClientConfig) -> Iterator[Finding]:
    tiers, policy = permitted(config), config.sovereignty
    if not tiers:
        places = ", ".join(f"{tier.name} ({tier.trust}, {tier.region})" for tier in config.tiers)
        yield Finding(Level.REFUSED, "sovereignty", f"permits none of the tiers: {places}")
    elif policy.has_field_rules and len(never_asked(config)) == len(tiers):
        said = "forbid every tier to every request: no tier could ever be asked"
        yield Finding(Level.REFUSED, "sovereignty.fields", said)
    if config.deadline < START_GATE + config.timeout.reserve:
        least = START_GATE + config.timeout.reserve
        said = f"leaves no attempt the time to come back: at least {least:g} s are needed"
        yield Finding(Level.REFUSED, "client.deadline", said)


def _of_load(config: ClientConfig, processes: int, most_extra: float) -> Iterator[Finding]:
    floors = config.retry.floor * processes
    if floors > most_extra:
        said = (
            f"{config.retry.floor:g} a second in each of {processes} processes adds up to "
            f"{floors:g} attempts a second in an outage, above {most_extra:g}"
        )
        yield Finding(Level.UNSAFE, "retry.floor", said)
    shares = [("retry.budget", config.retry.budget)]
    if config.hedge is not None:
        shares.append(("hedge.budget", config.hedge.budget))
    for key, share in shares:
        if share > SAFE_SHARE:
            said = f"{share:.0%} more load when a tier is in trouble; at most {SAFE_SHARE:.0%}"
            yield Finding(Level.UNSAFE, key, said)


def _of_data(config: ClientConfig) -> Iterator[Finding]:
    policy = config.sovereignty
    for tier in permitted(config):
        clear = [e.url for e in tier.endpoints if e.url.startswith("http://")]
        far = [url for url in clear if not url.startswith(LOCAL)]
        if tier.trust == "public" and far:
            said = f"sends requests in clear text to a public tier: {', '.join(far)}; use https"
            yield Finding(Level.UNSAFE, f"tiers.{tier.name}.endpoints", said)
        if tier.trust == "public" and not policy.has_field_rules:
            said = "is public and sees every field; sovereignty.fields could keep some from it"
            yield Finding(Level.NOTE, f"tiers.{tier.name}", said)
    for rule in policy.fields:
        if not any(rule.concerns(tier) for tier in config.tiers):
            yield _unused(rule, config.tiers)
    for region in policy.regions or ():
        if region not in {tier.region for tier in config.tiers}:
            said = f"names {region!r}, where no tier is"
            yield Finding(Level.NOTE, "sovereignty.regions", said)


def _unused(rule: FieldRule, tiers: tuple[Tier, ...]) -> Finding:
    places = ", ".join(f"{tier.name} ({tier.trust}, {tier.region})" for tier in tiers)
    said = f"speaks of no tier there is: {places}"
    level = Level.NOTE if rule.action == "allow" else Level.UNSAFE
    return Finding(level, f"sovereignty.fields.{rule.name}", said)


def _of_time(config: ClientConfig) -> Iterator[Finding]:
    retry, deadline = config.retry, config.deadline
    chain = longest_chain(config)
    reached = min(most_attempts(config), endpoints_reached(config))
    if len(chain) < reached:
        said = (
            f"of {reached} endpoints a call may try, {len(chain)} get their turn "
            f"when every attempt hangs ({deadline:g} s in all)"
        )
        yield Finding(Level.NOTE, "retry.attempts", said)
    if retry.wait is None and retry.base > deadline / 2:
        said = "waits longer than half the deadline: most retries of an endpoint will not happen"
        yield Finding(Level.NOTE, "retry.base", said)
    if config.hedge is not None and (config.hedge.after or 0.0) > deadline / 2:
        said = "leaves a hedge less than half the deadline to answer in"
        yield Finding(Level.NOTE, "hedge.after", said)
    if config.hedge is not None and all(len(tier.endpoints) < 2 for tier in config.tiers):
        said = "has no effect: no tier has a second endpoint"
        yield Finding(Level.NOTE, "hedge", said)


def _of_escalation(config: ClientConfig) -> Iterator[Finding]:
    policy = config.escalation
    if escalates(config) and config.retry.attempts < 2:
        said = "leaves none for the cloud: no call is ever escalated; at least 2 are needed"
        yield Finding(Level.UNSAFE, "retry.attempts", said)
    if not is_paired(config):
        settings = [("mode", policy.moves), ("shadow", policy.shadow > 0)]
        said = "has no effect: there are no edge and cloud to choose between"
        yield from (Finding(Level.NOTE, f"escalation.{key}", said) for key, on in settings if on)
    elif policy.mode == "quality_first" and policy.ratio == policy.budget:
        said = (
            "is the budget's: what the certificate demands beyond it stays at the edge and voids "
            "it; a larger cap would let it through"
        )
        yield Finding(Level.NOTE, "escalation.cap", said)

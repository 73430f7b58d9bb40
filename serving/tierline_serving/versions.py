"""Which bundles of a registry a process serves: the policy, the channels, the labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tierline import ConfigurationError
from tierline_serving._channels import Channel

LABEL_PREFIX: Final = "label:"  # a version written so names whatever the label names now


class Keep(Enum):
    """What is served besides what the channels name."""

    LATEST = "latest"  # what the first channel named last, so many of them
    SPECIFIC = "specific"  # these versions and no other
    ALL = "all"  # every bundle of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """Which bundles of a model are served. ``count`` is for LATEST, ``versions`` for SPECIFIC."""

    keep: Keep = Keep.LATEST
    count: int = 1
    versions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> VersionPolicy:
        """``latest``, ``latest:2``, ``all`` or ``specific:V,V``. Raises ConfigurationError."""
        kind, _, rest = text.partition(":")
        if kind == Keep.ALL.value and not rest:
            return cls(keep=Keep.ALL)
        if kind == Keep.LATEST.value and (not rest or (rest.isdecimal() and 0 < int(rest) < 1000)):
            return cls(count=int(rest or 1))
        named = tuple(version.strip() for version in rest.split(","))
        if kind == Keep.SPECIFIC.value and all(named):
            return cls(keep=Keep.SPECIFIC, versions=named)
        raise ConfigurationError(
            f"expected latest, latest:N, all or specific:VERSION,VERSION, got {text!r}",
            key="versions",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Bundle ids to be loaded: the one that answers, the others, and what each label names.
    ``default`` None stands for whatever the source holds: it is loaded anew every time."""

    default: str | None
    others: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """A bundle the registry holds: its folder and its id."""

    folder: str
    id: str


def version_of(bundle: str) -> str:
    """The version in a bundle id: the tiers' bundles of one version are made for each other."""
    return bundle.partition("@")[0]


def bundle_of(model: str, folder: str) -> Listed:
    """The bundle id that a folder's name ``<model>-<version>-<digest12>`` tells."""
    version, _, digest = folder.removeprefix(f"{model}-").rpartition("-")
    return Listed(folder, f"{version}@{digest}")


def wanted(
    policy: VersionPolicy, channels: Sequence[Channel], there: Sequence[Listed] = ()
) -> Wanted:
    """What to serve of one model: the first channel answers unless the policy is SPECIFIC and
    leaves it out; every channel is a label. ``there`` is what the registry holds of the model, by
    age (not needed for LATEST). Raises ConfigurationError for a version that is not there."""
    first = channels[0]
    labels = {each.channel: bundle_of(each.model, each.current).id for each in channels}
    default = labels[first.channel]
    named = list(dict.fromkeys(bundle_of(first.model, each).id for each in reversed(first.stack)))
    match policy.keep:
        case Keep.LATEST:
            chosen = named[: policy.count]
        case Keep.ALL:
            chosen = [each.id for each in there]
        case Keep.SPECIFIC:
            chosen = [_chosen(version, there) for version in policy.versions]
            if default not in chosen:
                default = chosen[-1]
            labels = {label: bundle for label, bundle in labels.items() if bundle in chosen}
    others = [bundle for bundle in (*labels.values(), *chosen) if bundle != default]
    return Wanted(default=default, others=tuple(dict.fromkeys(others)), labels=labels)


def _chosen(version: str, there: Sequence[Listed]) -> str:
    found = [each.id for each in there if version in (each.id, version_of(each.id))]
    if not found:
        known = ", ".join(each.id for each in there) or "none"
        raise ConfigurationError(
            f"the registry holds no version {version!r} of the model; it holds {known}",
            key="versions",
        )
    return found[-1]

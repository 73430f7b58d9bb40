"""Where a model's bundles are taken from: what is wanted there now, and how one is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tierline import BundleRefused
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.memory import needed
from tierline_serving.registry import Registry
from tierline_serving.scorer import Scorer
from tierline_serving.signing import Trust
from tierline_serving.versions import Keep, Listed, VersionPolicy, Wanted, bundle_of, wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle fresh from its source: its scorer, a request to warm it up, its prior."""

    scorer: Scorer
    warm_up: ScoreRequest | None = None
    prior: ScoreReply | None = None


Source = Callable[[], Loaded]  # opens, verifies and loads a model; slow, called on a thread
LoadBundle = Callable[[Bundle], Loaded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A verified bundle: what it is called, how many bytes loading it may take, and how to."""

    name: str
    need: int
    load: Source


class Shelf(Protocol):
    """One model's source. Every method may block, and is called on a thread."""

    def wanted(self) -> Wanted:
        """What is to be loaded now. Raises TierlineError when that cannot be told."""
        ...

    def stage(self, bundle: str | None) -> Staged:
        """Verify a wanted bundle. Raises BundleRefused."""
        ...

    def stamp(self) -> object:
        """A value that changes when ``wanted`` may have changed; cheap."""
        ...


@dataclass(frozen=True, slots=True)
class PlainShelf:
    """A function that loads whatever there is."""

    source: Source

    def wanted(self) -> Wanted:
        return Wanted(default=None)

    def stage(self, bundle: str | None) -> Staged:
        return Staged(name="(any)", need=0, load=self.source)

    def stamp(self) -> object:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderShelf:
    """One bundle's folder."""

    path: Path
    trust: Trust
    load: LoadBundle

    def wanted(self) -> Wanted:
        return Wanted(default=None)

    def stage(self, bundle: str | None) -> Staged:
        return _staged(open_bundle(self.path, self.trust), self.load)

    def stamp(self) -> object:
        return None  # a folder is for good: bundles never change


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryShelf:
    """A registry's bundles of one model: what the channels name, and what the policy adds."""

    registry: Registry
    model: str
    channels: tuple[str, ...]
    policy: VersionPolicy
    trust: Trust
    load: LoadBundle

    def wanted(self) -> Wanted:
        return wanted_of(self.registry, self.model, self.channels, self.policy)

    def stage(self, bundle: str | None) -> Staged:
        if bundle is None:
            raise BundleRefused("a registry's bundles are asked for by id")
        found = open_bundle(self.registry.place(self.model, bundle), self.trust)
        if (found.manifest.model, found.id) != (self.model, bundle):
            raise BundleRefused(f"{found.path} holds {found.manifest.model} {found.id}")
        return _staged(found, self.load)

    def stamp(self) -> object:
        files = [self.registry.channel_file(self.model, each) for each in self.channels]
        if self.policy.keep is not Keep.LATEST:
            files.append(self.registry.root / "bundles")
        return tuple(_stamp(file) for file in files)


def wanted_of(
    registry: Registry, model: str, channels: Sequence[str], policy: VersionPolicy
) -> Wanted:
    """What a registry has of a model for these channels and this policy. Raises
    ConfigurationError or BundleRefused."""
    named = [registry.read_channel(model, channel) for channel in channels]
    there: list[Listed] = []
    if policy.keep is not Keep.LATEST:
        published = (each for each in registry.list() if each.model == model)
        there = [bundle_of(model, each.folder) for each in published]
    return wanted(policy, named, there)


def _staged(bundle: Bundle, load: LoadBundle) -> Staged:
    return Staged(name=bundle.id, need=needed(bundle.manifest), load=lambda: load(bundle))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None  # not there now: an answer like any other, and a change when it comes
    return found.st_ino, found.st_mtime_ns, found.st_size

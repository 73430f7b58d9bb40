"""A registry in a local folder: immutable bundles, and channels that name one of them per model.

    bundles/<model>-<version>-<digest12>/    never changed once there
    channels/<model>/<channel>.json          replaced in one step

Readers take no lock and never see half a change: a bundle is moved into place whole before any
channel names it. Writers take turns on ``.lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tierline import BundleRefused, ConfigurationError
from tierline_serving._channels import Channel
from tierline_serving._durable import STAGING, copy_new, move_folder, replace_file, staged_folder
from tierline_serving._fields import NAME
from tierline_serving.bundle import Bundle, folder_name, open_bundle
from tierline_serving.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest, utc_instant
from tierline_serving.signing import Trust

DEFAULT_CHANNEL: Final = "stable"
LOCK_FILE: Final = ".lock"
BUNDLES: Final = "bundles"
CHANNELS: Final = "channels"
_FOLDER: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}-[A-Za-z0-9][A-Za-z0-9._-]{0,63}-[0-9a-f]{12}\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One bundle of the registry, as its manifest names it, and the channels that name it."""

    folder: str
    model: str
    version: str
    created: str
    signed: bool  # a signature is there; only opening the bundle verifies it
    channels: tuple[str, ...]

    @property
    def id(self) -> str:
        """``<version>@<digest12>``."""
        return f"{self.version}@{self.folder[-12:]}"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry folder; it is made by the first ``publish``. ``clock`` stamps the moves."""

    root: Path
    clock: Callable[[], datetime] = _now

    def publish(
        self, bundle: str | os.PathLike[str], *, trust: Trust, channel: str = DEFAULT_CHANNEL
    ) -> Path:
        """Verify a bundle, copy it in and let the channel name it; returns the copy's folder.
        Publishing again what is there only moves the channel. Raises BundleRefused, and then the
        channel names what it named before."""
        _check_name(channel, "channel")
        source = open_bundle(bundle, trust)
        folder = folder_name(source.manifest, source.digest)
        with self._writing():
            place = self._bundles / folder
            if place.exists():
                _renew_signature(source.path / SIGNATURE_FILE, place / SIGNATURE_FILE)
            else:
                self._copy_in(source, place, trust)
            published = open_bundle(place, trust)
            self._move(published.manifest.model, channel, folder, "publish")
        return place

    def resolve(self, model: str, channel: str = DEFAULT_CHANNEL) -> Path:
        """The folder of the bundle that a channel names. Raises ConfigurationError when there is
        no such channel, BundleRefused when the registry is damaged."""
        folder = self._bundles / self.read_channel(model, channel).current
        if not folder.is_dir():
            raise BundleRefused(f"{model}/{channel} names {folder.name}, which is missing")
        return folder

    def place(self, model: str, bundle: str) -> Path:
        """The folder of a bundle given by its id (``<version>@<digest12>``). Raises BundleRefused
        when it is not here."""
        version, _, digest = bundle.partition("@")
        folder = self._bundles / check_folder_name(f"{model}-{version}-{digest}")
        if not folder.is_dir():
            raise BundleRefused(f"the registry {self.root} holds no bundle {bundle} of {model!r}")
        return folder

    def promote(self, model: str, bundle: str, *, trust: Trust, channel: str) -> Path:
        """Let a channel name a bundle that is already here, given as folder name, id or version.
        Raises ConfigurationError when it is not here or ambiguous, BundleRefused when unsound."""
        _check_name(channel, "channel")
        with self._writing():
            folder = self._find(model, bundle)
            open_bundle(self._bundles / folder, trust)
            self._move(model, channel, folder, "promote")
        return self._bundles / folder

    def roll_back(self, model: str, *, trust: Trust, channel: str = DEFAULT_CHANNEL) -> Path:
        """Let a channel name what it named before; again goes one further. Raises
        ConfigurationError when there is nothing before, BundleRefused when that is unsound."""
        with self._writing():
            returned = self.read_channel(model, channel).rolled_back(utc_instant(self.clock()))
            place = self._bundles / returned.current
            open_bundle(place, trust)
            replace_file(self.channel_file(model, channel), returned.to_bytes())
        return place

    def list(self) -> tuple[Published, ...]:
        """Every bundle here, by model and creation. Reads manifests; verifies nothing else."""
        naming: dict[str, list[str]] = {}
        for channel in self.channels():
            naming.setdefault(channel.current, []).append(channel.channel)
        found = [
            self._describe(folder, tuple(naming.get(folder, ())))
            for folder in sorted(os.listdir(self._bundles) if self._bundles.is_dir() else [])
            if not folder.startswith(STAGING)
        ]
        return tuple(sorted(found, key=lambda published: (published.model, published.created)))

    def channels(self) -> tuple[Channel, ...]:
        """Every channel, with its history. Raises BundleRefused for a damaged file."""
        files = sorted((self.root / CHANNELS).glob("*/*.json"))
        return tuple(self.read_channel(file.parent.name, file.stem) for file in files)

    def read_channel(self, model: str, channel: str) -> Channel:
        """One channel. Raises ConfigurationError when there is none by that name."""
        file = self.channel_file(model, channel)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise ConfigurationError(
                f"the registry {self.root} has no channel {channel!r} of model {model!r}; "
                "tierline registry list shows what there is"
            ) from None
        found = Channel.parse(data, f"channels/{model}/{channel}.json")
        if (found.model, found.channel) != (model, channel):
            raise BundleRefused(f"{file} speaks of {found.model}/{found.channel}")
        for folder in found.stack:
            check_folder_name(folder)
        return found

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep writers out, e.g. while a backup is made."""
        if not self._bundles.is_dir():
            raise ConfigurationError(f"there is no registry at {self.root}")
        with self._locked():
            yield

    @property
    def _bundles(self) -> Path:
        return self.root / BUNDLES

    def channel_file(self, model: str, channel: str) -> Path:
        """The file that says what a channel names; it is replaced in one step, never rewritten."""
        _check_name(model, "model")
        _check_name(channel, "channel")
        return self.root / CHANNELS / model / f"{channel}.json"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._bundles.mkdir(parents=True, exist_ok=True)
        with self._locked():
            # What is left of a writer that died: nobody else writes while we hold the lock.
            for folder in self._bundles.glob(f"{STAGING}*"):
                shutil.rmtree(folder)
            for file in (self.root / CHANNELS).glob(f"*/{STAGING}*"):
                file.unlink()
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it when this process ends
            yield

    def _copy_in(self, source: Bundle, place: Path, trust: Trust) -> None:
        with staged_folder(self._bundles) as staged:
            for name in (MANIFEST_FILE, SIGNATURE_FILE, *source.manifest.files):
                if name == SIGNATURE_FILE and not (source.path / name).exists():
                    continue
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                copy_new(source.path / name, staged / name)
            copied = open_bundle(staged, trust)  # what arrived, not what was sent
            if copied.digest != source.digest:
                raise BundleRefused(f"bundle {source.path}: it changed while it was copied")
            move_folder(staged, place)

    def _move(self, model: str, channel: str, folder: str, action: str) -> None:
        file = self.channel_file(model, channel)
        before = (
            self.read_channel(model, channel)
            if file.exists()
            else Channel(model=model, channel=channel, stack=(), history=())
        )
        after = before.moved(folder, utc_instant(self.clock()), action)
        if after is not before:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, after.to_bytes())

    def _find(self, model: str, wanted: str) -> str:
        found = [
            published.folder
            for published in self.list()
            if published.model == model
            and wanted in (published.folder, published.id, published.version)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigurationError(f"{wanted!r} is ambiguous: {', '.join(found)}")
        raise ConfigurationError(
            f"the registry {self.root} holds no bundle {wanted!r} of model {model!r}; give a "
            "version, an id or a folder name: tierline registry list"
        )

    def _describe(self, folder: str, channels: tuple[str, ...]) -> Published:
        place = self._bundles / check_folder_name(folder)
        try:
            manifest = Manifest.parse((place / MANIFEST_FILE).read_bytes())
        except OSError as error:
            raise BundleRefused(f"bundle {place}: cannot be read: {error}") from error
        except BundleRefused as refused:
            raise BundleRefused(f"bundle {place}: {refused}") from refused
        return Published(
            folder=folder,
            model=manifest.model,
            version=manifest.version,
            created=manifest.created,
            signed=(place / SIGNATURE_FILE).exists(),
            channels=channels,
        )


def _renew_signature(given: Path, here: Path) -> None:
    """Take over a verified signature: an unsigned bundle may be signed after it was published."""
    if given.exists() and not (here.exists() and here.read_bytes() == given.read_bytes()):
        replace_file(here, given.read_bytes())


def check_folder_name(folder: str) -> str:
    """The name, if a bundle's folder may be called so. Raises BundleRefused: a damaged channel
    must not lead out of the registry."""
    if not _FOLDER.match(folder):
        raise BundleRefused(f"{folder!a} is no bundle folder (<model>-<version>-<digest12>)")
    return folder


def _check_name(value: str, what: str) -> None:
    if not NAME.match(value):
        raise ConfigurationError(f"a {what} is named with A-Z a-z 0-9 . _ -, not {value!a}")

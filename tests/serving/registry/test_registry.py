"""A registry moves channels in one step: a reader sees the old bundle or the new one, whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import sample
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tierline import BundleRefused, ConfigurationError
from tierline_serving._channels import Channel
from tierline_serving.bundle import Bundle, open_bundle, write_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Signer, Trust


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry that nobody published to."""
    return Registry(tmp_path / "registry")


def test_what_was_published_is_resolved_and_opens(
    registry: Registry, first: Bundle, trust: Trust
) -> None:
    place = registry.publish(first.path, trust=trust)
    assert registry.resolve("ranker") == place
    assert open_bundle(place, trust).id == first.id
    shutil.rmtree(first.path)
    assert open_bundle(registry.resolve("ranker"), trust).digest == first.digest


def test_publishing_again_changes_nothing(registry: Registry, first: Bundle, trust: Trust) -> None:
    registry.publish(first.path, trust=trust)
    before = registry.read_channel("ranker", "stable")
    registry.publish(first.path, trust=trust)
    assert registry.read_channel("ranker", "stable") == before


def test_rolling_back_returns_to_what_was_there(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    old = registry.publish(first.path, trust=trust)
    registry.publish(second.path, trust=trust)
    assert registry.roll_back("ranker", trust=trust) == old
    assert registry.resolve("ranker") == old
    actions = [move.action for move in registry.read_channel("ranker", "stable").history]
    assert actions == ["publish", "publish", "roll-back"]
    with pytest.raises(ConfigurationError, match="names its first bundle"):
        registry.roll_back("ranker", trust=trust)


def test_channels_move_on_their_own(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    old = registry.publish(first.path, trust=trust)
    new = registry.publish(second.path, trust=trust, channel="canary")
    assert registry.resolve("ranker") == old
    assert registry.promote("ranker", "2", trust=trust, channel="stable") == new
    assert registry.resolve("ranker") == registry.resolve("ranker", "canary") == new


@pytest.mark.parametrize("name", ["version", "id", "folder"])
def test_a_bundle_is_promoted_by_any_of_its_names(
    registry: Registry, first: Bundle, trust: Trust, name: str
) -> None:
    place = registry.publish(first.path, trust=trust)
    wanted = {"version": first.manifest.version, "id": first.id, "folder": place.name}[name]
    assert registry.promote("ranker", wanted, trust=trust, channel="eu") == place


def test_promoting_what_is_not_here_or_ambiguous_is_refused(
    registry: Registry, first: Bundle, tmp_path: Path, signer: Signer, trust: Trust
) -> None:
    registry.publish(first.path, trust=trust)
    with pytest.raises(ConfigurationError, match="holds no bundle '9'"):
        registry.promote("ranker", "9", trust=trust, channel="eu")
    files = {**sample.sequence_files(), sample.MODEL: b"trained again"}
    twin = write_bundle(files, sample.sequence_manifest("1"), tmp_path / "twin", signer)
    registry.publish(twin.path, trust=trust, channel="canary")
    with pytest.raises(ConfigurationError, match="'1' is ambiguous"):
        registry.promote("ranker", "1", trust=trust, channel="eu")


def test_the_list_names_bundles_and_their_channels(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    assert registry.list() == ()
    registry.publish(first.path, trust=trust)
    registry.publish(second.path, trust=trust)
    registry.promote("ranker", "1", trust=trust, channel="eu")
    listed = {bundle.id: (bundle.channels, bundle.signed) for bundle in registry.list()}
    assert listed == {first.id: (("eu",), True), second.id: (("stable",), True)}


def test_an_unsound_bundle_is_not_published(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    place = registry.publish(first.path, trust=trust)
    second.file(sample.MODEL).write_bytes(b"")
    with pytest.raises(BundleRefused, match=r"model\.onnx has 0 bytes"):
        registry.publish(second.path, trust=trust)
    assert registry.resolve("ranker") == place
    assert len(registry.list()) == 1


def test_rolling_back_to_a_damaged_bundle_is_refused(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    old = registry.publish(first.path, trust=trust)
    new = registry.publish(second.path, trust=trust)
    (old / sample.MODEL).write_bytes(b"")
    with pytest.raises(BundleRefused, match=r"model\.onnx has 0 bytes"):
        registry.roll_back("ranker", trust=trust)
    assert registry.resolve("ranker") == new


def test_a_bundle_that_was_signed_later_is_published_with_its_signature(
    registry: Registry, tmp_path: Path, signer: Signer, trust: Trust
) -> None:
    unsigned = sample.write_tensor_bundle(tmp_path / "built")
    registry.publish(unsigned.path, trust=Trust(allow_unsigned=True))
    signed = sample.write_tensor_bundle(tmp_path / "built", signer=signer)
    place = registry.publish(signed.path, trust=trust)
    assert open_bundle(place, trust).signed_by == signer.public_key.key_id


@pytest.mark.parametrize("missing", ["model", "channel"])
def test_what_is_not_there_is_named(
    registry: Registry, first: Bundle, trust: Trust, missing: str
) -> None:
    registry.publish(first.path, trust=trust)
    asked = {"model": ("other", "stable"), "channel": ("ranker", "canary")}[missing]
    with pytest.raises(ConfigurationError, match="has no channel"):
        registry.resolve(*asked)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../etc", ".hidden"])
def test_names_that_lead_out_of_the_registry_are_refused(
    registry: Registry, first: Bundle, trust: Trust, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="is named with"):
        registry.resolve(name)
    with pytest.raises(ConfigurationError, match="is named with"):
        registry.publish(first.path, trust=trust, channel=name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"format": 1, "model": "ranker", "channel": "stable", "stack": [], "history": []}',
        b'{"format": 1, "model": "x", "channel": "stable", "stack": ["a"], "history": []}',
        b'{"format": 1, "model": "ranker", "channel": "stable", "stack": ["../x"], "history": []}',
    ],
)
def test_a_damaged_channel_is_refused(
    registry: Registry, first: Bundle, trust: Trust, content: bytes
) -> None:
    registry.publish(first.path, trust=trust)
    (registry.root / "channels/ranker/stable.json").write_bytes(content)
    with pytest.raises(BundleRefused):
        registry.resolve("ranker")


class Crash(Exception):
    """The process would have died here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Let the ``step``-th rename (0 is the first) fail; returns how many were asked for."""
    asked: list[object] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        asked.append(target)
        if len(asked) - 1 == step:
            raise Crash
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return lambda: len(asked)


@pytest.mark.parametrize("step", [0, 1])
def test_a_crash_while_publishing_leaves_the_old_bundle_served(
    registry: Registry,
    first: Bundle,
    second: Bundle,
    trust: Trust,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    old = registry.publish(first.path, trust=trust)
    with monkeypatch.context() as patch:
        asked = crash_at(patch, step)
        with pytest.raises(Crash):
            registry.publish(second.path, trust=trust)
        assert asked() == step + 1
    assert registry.resolve("ranker") == old
    open_bundle(old, trust)
    new = registry.publish(second.path, trust=trust)  # trying again finishes it
    assert open_bundle(registry.resolve("ranker"), trust).path == new


def test_a_crash_while_rolling_back_leaves_the_new_bundle_served(
    registry: Registry,
    first: Bundle,
    second: Bundle,
    trust: Trust,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.publish(first.path, trust=trust)
    new = registry.publish(second.path, trust=trust)
    with monkeypatch.context() as patch:
        crash_at(patch, 0)
        with pytest.raises(Crash):
            registry.roll_back("ranker", trust=trust)
    assert registry.resolve("ranker") == new


def test_what_a_killed_writer_left_is_cleared_by_the_next(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    registry.publish(first.path, trust=trust)
    (registry.root / "bundles/.staging-dead").mkdir()
    (registry.root / "channels/ranker/.staging-dead").write_bytes(b"{")
    assert len(registry.list()) == 1
    registry.publish(second.path, trust=trust)
    left = [path for path in registry.root.rglob(".staging-*")]
    assert left == []


def test_writers_take_turns(
    registry: Registry, first: Bundle, second: Bundle, trust: Trust
) -> None:
    registry.publish(first.path, trust=trust)
    names = [f"channel-{i}" for i in range(6)]
    threads = [
        Thread(target=registry.publish, args=(bundle.path,), kwargs={"trust": trust, "channel": c})
        for c, bundle in zip(names, (first, second) * 3, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = [open_bundle(registry.resolve("ranker", name), trust).id for name in names]
    assert served == [first.id, second.id] * 3


class ChannelMoves(RuleBasedStateMachine):
    """Any mix of moves and roll-backs behaves like a stack that never repeats its top."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = Channel(model="m", channel="c", stack=(), history=())
        self.stack: list[str] = []

    @rule(bundle=st.sampled_from(["m-1-0123456789ab", "m-2-0123456789ab", "m-3-0123456789ab"]))
    def move(self, bundle: str) -> None:
        """Publish or promote."""
        self.channel = self.channel.moved(bundle, "2026-11-21T04:00:00Z", "publish")
        if self.stack[-1:] != [bundle]:
            self.stack.append(bundle)
        self.agree()

    @precondition(lambda self: len(self.stack) > 1)
    @rule()
    def roll_back(self) -> None:
        """Go back one."""
        self.channel = self.channel.rolled_back("2026-11-21T04:00:00Z")
        self.stack.pop()
        self.agree()

    def agree(self) -> None:
        """The channel names the top, and survives writing and reading."""
        assert list(self.channel.stack) == self.stack
        assert self.channel.history[-1].bundle == self.channel.current == self.stack[-1]
        assert Channel.parse(self.channel.to_bytes(), "c.json") == self.channel


TestChannelMoves = ChannelMoves.TestCase

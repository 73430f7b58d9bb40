"""A registry's bundles: wanted by channel, verified when taken, and never seen in part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "edge"))

import tiny_bundles

from tierline import BundleRefused, ConfigurationError
from tierline_edge.scorer import load_scorer
from tierline_serving.bundle import Bundle
from tierline_serving.registry import Registry
from tierline_serving.shelf import FolderShelf, Loaded, RegistryShelf
from tierline_serving.signing import Trust
from tierline_serving.versions import Keep, VersionPolicy, Wanted

TRUST = Trust(allow_unsigned=True)


def load(bundle: Bundle) -> Loaded:
    return Loaded(scorer=load_scorer(bundle, threads=1))


@pytest.fixture
def published(tmp_path: Path) -> tuple[Registry, Bundle, Bundle]:
    """Two versions: the first is stable, the second is canary."""
    first, second = (tiny_bundles.write_sequence(tmp_path, version=v) for v in ("1", "2"))
    registry = Registry(tmp_path / "registry")
    registry.publish(first.path, trust=TRUST)
    registry.publish(second.path, trust=TRUST, channel="canary")
    return registry, first, second


def shelf(registry: Registry, *channels: str, policy: VersionPolicy | None = None) -> RegistryShelf:
    return RegistryShelf(
        registry=registry,
        model="ranker",
        channels=channels or ("stable",),
        policy=policy or VersionPolicy(),
        trust=TRUST,
        load=load,
    )


def test_channels_are_wanted_and_their_bundles_load(
    published: tuple[Registry, Bundle, Bundle],
) -> None:
    registry, first, second = published
    both = shelf(registry, "stable", "canary")
    assert both.wanted() == Wanted(
        default=first.id,
        others=(second.id,),
        labels={"stable": first.id, "canary": second.id},
    )
    staged = both.stage(second.id)
    assert staged.load().scorer.info.bundle == second.id
    assert staged.need > sum(file.bytes for file in second.manifest.files.values())


def test_the_policy_all_wants_what_no_channel_names_any_more(
    published: tuple[Registry, Bundle, Bundle],
) -> None:
    registry, first, second = published
    found = shelf(registry, policy=VersionPolicy(keep=Keep.ALL)).wanted()
    assert (found.default, found.others) == (first.id, (second.id,))


def test_the_stamp_changes_when_the_channel_moves_and_not_before(
    published: tuple[Registry, Bundle, Bundle],
) -> None:
    registry, _, second = published
    stable = shelf(registry)
    before = stable.stamp()
    assert stable.stamp() == before
    registry.promote("ranker", second.id, trust=TRUST, channel="canary")
    assert stable.stamp() == before
    registry.promote("ranker", second.id, trust=TRUST, channel="stable")
    assert stable.stamp() != before
    assert stable.wanted().default == second.id


def test_a_bundle_damaged_in_the_registry_is_refused_when_it_is_taken(
    published: tuple[Registry, Bundle, Bundle],
) -> None:
    registry, _, second = published
    model = registry.place("ranker", second.id) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleRefused, match=r"model\.onnx is damaged"):
        shelf(registry).stage(second.id)


@pytest.mark.parametrize("bundle", ["3@0123456789ab", "1", "../../etc@0123456789ab", ""])
def test_what_the_registry_does_not_hold_is_refused(
    published: tuple[Registry, Bundle, Bundle], bundle: str
) -> None:
    registry, _, _ = published
    with pytest.raises(BundleRefused):
        shelf(registry).stage(bundle)


def test_a_channel_that_is_not_there_is_named(published: tuple[Registry, Bundle, Bundle]) -> None:
    registry, _, _ = published
    with pytest.raises(ConfigurationError, match="no channel 'nightly'"):
        shelf(registry, "nightly").wanted()


def test_a_folder_is_for_good_and_holds_one_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_tensor(tmp_path)
    folder = FolderShelf(path=bundle.path, trust=TRUST, load=load)
    assert (folder.wanted(), folder.stamp()) == (Wanted(default=None), None)
    assert folder.stage(None).load().scorer.info.bundle == bundle.id

"""Publish a pair of bundles, once both have shown that they may be."""

from __future__ import annotations

from pathlib import Path

from tierline_cloud.gates import require_publishable
from tierline_serving.bundle import open_bundle
from tierline_serving.registry import DEFAULT_CHANNEL, Registry
from tierline_serving.signing import Signer, Trust

# An edge node names no channel (`registry:reg/ranker`), the cloud its own (`…/ranker/cloud`).
CHANNELS = {"edge": DEFAULT_CHANNEL, "cloud": "cloud"}


def publish(root: Path, folders: dict[str, str], signer: Signer | None) -> dict[str, str]:
    """Both bundles carry one model name, so each tier has a channel of its own. Raises ParityError
    and BatchVarianceError for a bundle that must not be published; then neither is."""
    keys = () if signer is None else (signer.public_key,)
    trust = Trust(keys=keys, allow_unsigned=signer is None)
    for folder in folders.values():
        require_publishable(open_bundle(folder, trust))
    registry = Registry(root)
    return {
        tier: str(registry.publish(folder, trust=trust, channel=CHANNELS[tier]))
        for tier, folder in folders.items()
    }

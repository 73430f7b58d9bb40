"""The shop a drill serves: a pair of bundles trained once and kept, and the users who visit it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierline_drills.errors import DrillError
from tierline_drills.processes import Processes, tierline_command
from tierline_serving.bundle import Bundle, open_bundle, write_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Signer, Trust

MODEL = "shop"
# Small enough to be trained in a minute on two cores; what is measured is recovery, not ranking.
QUICK = ("--users", "1200", "--items", "500", "--recipe", "quick", "--max-minutes", "1")
TRAINING_TIMEOUT = 420.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """The two bundles of one training, the data they came from, and the keys."""

    folder: Path
    edge: Path
    cloud: Path
    data: Path
    key: Path
    public: Path

    @property
    def version(self) -> str:
        """What the bundles of both tiers share, and a call may be pinned to."""
        return self.edge.name.removeprefix(f"{MODEL}-").rpartition("-")[0]

    @property
    def trust(self) -> Trust:
        """What signed the bundles is trusted, nothing else is."""
        return Trust.from_files([self.public])


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One user: what they took before, and the one thing they took next."""

    history: tuple[int, ...]
    target: int


def default_folder() -> Path:
    """Where the shop is kept between drills: a folder of this user's under the temporary one."""
    return Path(tempfile.gettempdir()) / f"tierline-drills-{os.getuid()}"


def open_shop(processes: Processes, folder: Path, seed: int = 7) -> Shop:
    """The shop in ``folder``, trained if it is not there yet. Raises DrillError."""
    key, public, result = folder / "signing.key", folder / "signing.pub", folder / "training.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if not public.exists():
            keys = ["--key", str(key), "--public", str(public)]
            processes.run("keygen", tierline_command("bundle", "keygen", *keys), 60.0)
        made = ["--out", str(folder / "training"), "--key", str(key), "--json", str(result)]
        command = tierline_command("train", "--synthetic", *QUICK, "--model", MODEL, *made)
        processes.run("training", [*command, "--seed", str(seed)], TRAINING_TIMEOUT)
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DrillError(f"{result} is damaged; delete {folder} and try again: {error}") from error
    return Shop(
        folder=folder,
        edge=Path(document["bundles"]["edge"]),
        cloud=Path(document["bundles"]["cloud"]),
        data=folder / "training" / "synthetic.txt",
        key=key,
        public=public,
    )


def next_version(shop: Shop, bundle: Path, destination: Path, version: str) -> Bundle:
    """The same model as another version, signed: what a publish brings."""
    source = open_bundle(bundle, shop.trust)
    manifest: dict[str, Any] = {**source.manifest.to_json(), "version": version}
    files = {name: bundle / name for name in manifest.pop("files")}
    return write_bundle(files, manifest, destination, Signer.from_file(shop.key))


def make_registry(shop: Shop, root: Path) -> Registry:
    """A registry that holds the edge bundle in channel "stable" and the cloud's in "cloud"."""
    registry = Registry(root)
    registry.publish(shop.edge, trust=shop.trust)
    registry.publish(shop.cloud, trust=shop.trust, channel="cloud")
    return registry


def visits_of(shop: Shop, count: int, seed: int = 7) -> list[Visit]:
    """``count`` users whom neither training nor calibration tested on, leave-one-out."""
    from tierline_cloud.data import group_users, leave_one_out, read_interactions

    split = leave_one_out(read_interactions(shop.data))
    report = group_users(len(split.test_target), seed=seed).report
    users = [int(user) for user in report[: max(1, count)]]
    return [
        Visit(
            history=tuple(int(item) for item in split.test_history.of(user)),
            target=int(split.test_target[user]),
        )
        for user in users
    ]

"""Serves a fake model from two workers on one port: family_server.py FOLDER SETTINGS_JSON.

A worker's model tells its process id. While FOLDER holds a file named after the process that loads,
that load is refused; the bundle loaded is the one FOLDER/version names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_scorer import FakeScorer

from tierline import BundleRefused
from tierline_serving.server import say_line, serve
from tierline_serving.settings import ServerSettings
from tierline_serving.shelf import Loaded, PlainShelf
from tierline_serving.workers.supervisor import supervise
from tierline_serving.workers.worker import Membership, end_with_supervisor


def scorer(bundle: str) -> FakeScorer:
    made = FakeScorer(bundle=bundle)
    made.info = dataclasses.replace(made.info, details={"pid": os.getpid()})
    return made


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings")
    for name in ("--worker", "--family", "--listeners"):
        parser.add_argument(name)
    options = parser.parse_args()
    given = json.loads(options.settings)
    if "keys" in given:
        given["keys"] = Path(given["keys"])
    settings = ServerSettings(**given)
    if options.worker is None:
        command = [sys.executable, *sys.argv]
        return supervise(settings, 2, command, say=say_line)
    end_with_supervisor()

    def load() -> Loaded:
        if (options.folder / str(os.getpid())).exists():
            raise BundleRefused("this worker will not have it")
        version = (options.folder / "version").read_text()
        return Loaded(scorer=scorer(f"{version}@0123456789ab"))

    membership = Membership(
        number=int(options.worker),
        folder=Path(options.family),
        listeners=tuple(int(each) for each in options.listeners.split(",")),
    )
    if (options.folder / "stillborn").exists():
        return 3
    return serve(
        [scorer("1@0123456789ab")],
        settings,
        shelves={"ranker": PlainShelf(load)},
        membership=membership,
    )


if __name__ == "__main__":
    sys.exit(main())

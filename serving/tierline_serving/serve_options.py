"""The options `tierline edge serve` and `tierline cloud serve` share, and what they mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tierline import ConfigurationError
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.access.tls import Tls
from tierline_serving.batching.batcher import BatchLimits
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.cores import choose_threads
from tierline_serving.logs import FORMS, LEVELS, write_log
from tierline_serving.registry import DEFAULT_CHANNEL, Registry
from tierline_serving.scorer import Scorer
from tierline_serving.server import say_line, serve
from tierline_serving.settings import ServerSettings
from tierline_serving.shelf import FolderShelf, Loaded, RegistryShelf, Shelf, wanted_of
from tierline_serving.signing import Trust
from tierline_serving.versions import VersionPolicy
from tierline_serving.workers.stage import Stage
from tierline_serving.workers.supervisor import own_command, supervise
from tierline_serving.workers.worker import Membership, end_with_supervisor

REGISTRY_PREFIX = "registry:"


class ServedScorer(Scorer, Protocol):
    """A scorer that also knows its bundle's popularity prior."""

    def prior(self) -> NDArray[np.float32] | None: ...


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """BUNDLE… and whom to trust."""
    parser.add_argument(
        "bundles",
        nargs="+",
        metavar="BUNDLE",
        help="a bundle's folder, or registry:FOLDER/MODEL[/CHANNEL[,CHANNEL…]]",
    )
    parser.add_argument(
        "--trust", action="append", type=Path, default=[], metavar="KEY", help="public key (PEM)"
    )
    parser.add_argument("--allow-unsigned", action="store_true", help="take unsigned bundles")
    parser.add_argument("--threads", type=int, help="for the model; default: all usable cores")


def add_serve_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Where to listen, how much to take in, how to leave."""
    add_bundle_options(parser)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port, help=f"0: any free one; default {port}")
    parser.add_argument("--unix-socket", type=Path, help="listen here as well")
    parser.add_argument("--allow-remote", action="store_true", help="listen beyond this machine")
    parser.add_argument("--keys", type=Path, help="key file: callers need a key (tierline keys)")
    parser.add_argument("--audit", type=Path, help="log of loads; default: the key file + .audit")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain (PEM): serve https")
    parser.add_argument("--tls-key", type=Path, help="its private key (PEM)")
    parser.add_argument(
        "--tls-client-ca", type=Path, help="callers need a certificate of this authority (PEM)"
    )
    parser.add_argument("--max-batch-rows", type=int, default=BatchLimits().max_batch_rows)
    parser.add_argument("--lame-duck", type=float, default=ServerSettings().lame_duck)
    parser.add_argument("--drain", type=float, default=ServerSettings().drain)
    parser.add_argument("--log-format", choices=FORMS, default="text", help="of standard error")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    _add_version_options(parser)
    _add_worker_options(parser)


def _add_version_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--versions",
        type=VersionPolicy.parse,
        default=VersionPolicy(),
        metavar="POLICY",
        help="of a registry's model: latest[:N] (of the first channel), specific:V,V or all",
    )
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="look for a channel that moved so often"
    )
    parser.add_argument(
        "--rollback-hold",
        type=float,
        default=ServerSettings().rollback_hold,
        metavar="SECONDS",
        help="keep the bundle before in memory so long for an instant roll-back; 0: not at all",
    )
    parser.add_argument(
        "--unload-first",
        action="store_true",
        help="a bundle that does not fit beside the old one takes its place, with a gap",
    )


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=1, help="processes on the same port")
    # How a supervisor tells a worker its place.
    for name in ("--worker", "--family", "--listeners"):
        parser.add_argument(name, help=argparse.SUPPRESS)


def open_bundles(options: argparse.Namespace) -> list[Bundle]:
    """The bundles named on the command line, verified. Raises BundleRefused."""
    trust = Trust.from_files(options.trust, allow_unsigned=options.allow_unsigned)
    policy = getattr(options, "versions", VersionPolicy())  # `check` has no such option
    return [open_bundle(_place(name, policy), trust) for name in options.bundles]


def run_server(options: argparse.Namespace, load: Callable[[Bundle], ServedScorer]) -> int:
    """Load every bundle, warm it up, serve it until signalled; returns an exit code. With several
    workers asked for, starts them and does none of it."""
    if options.workers < 1:
        raise ConfigurationError(f"must be at least 1, got {options.workers}", key="workers")
    settings = _settings(options)
    write_log(sys.stderr, options.log_format, options.log_level)
    if options.workers > 1 and options.worker is None:
        return supervise(settings, options.workers, own_command(), say=say_line)
    membership = _membership(options)
    if membership is not None:
        end_with_supervisor()
        if options.threads is None:
            options.threads = max(1, choose_threads(None) // options.workers)
    loading = _Loading(load, None if membership is None else membership.stage())
    bundles = open_bundles(options)
    scorers = [loading.scorer(bundle) for bundle in bundles]
    return serve(
        scorers,
        settings,
        warm_up=_warm_up(bundles),
        prior=prior_lookup(scorers),
        shelves=_shelves(options, bundles, loading),
        membership=membership,
    )


@dataclass(frozen=True, slots=True)
class _Loading:
    """How a verified bundle becomes a scorer: in a family, from a private copy all of them map."""

    load: Callable[[Bundle], ServedScorer]
    stage: Stage | None

    def scorer(self, bundle: Bundle) -> ServedScorer:
        if self.stage is None:
            return self.load(bundle)
        copy, hold = self.stage.take(bundle)
        try:
            scorer = self.load(copy)
        except BaseException:
            hold.let_go()
            raise
        hold.end_with(copy)
        return scorer

    def loaded(self, bundle: Bundle) -> Loaded:
        scorer = self.scorer(bundle)
        warm_up = _warm_up([bundle]).get(bundle.manifest.model)
        return Loaded(scorer=scorer, warm_up=warm_up, prior=_prior_reply(scorer))


def _membership(options: argparse.Namespace) -> Membership | None:
    if options.worker is None:
        return None
    return Membership(
        number=int(options.worker),
        folder=Path(options.family),
        listeners=tuple(int(each) for each in options.listeners.split(",")),
    )


def _settings(options: argparse.Namespace) -> ServerSettings:
    audit: Path | None = options.audit
    if audit is None and options.keys is not None:
        audit = options.keys.with_name(options.keys.name + ".audit")
    return ServerSettings(
        host=options.host,
        port=options.port,
        unix_socket=options.unix_socket,
        allow_remote=options.allow_remote,
        batch=BatchLimits(max_batch_rows=options.max_batch_rows),
        lame_duck=options.lame_duck,
        drain=options.drain,
        keys=options.keys,
        audit=audit,
        tls=_tls(options),
        rollback_hold=options.rollback_hold,
        watch=options.watch,
        unload_first=options.unload_first,
    )


def _tls(options: argparse.Namespace) -> Tls | None:
    given = (options.tls_cert, options.tls_key)
    if given == (None, None) and options.tls_client_ca is None:
        return None
    if None in given:
        raise ConfigurationError("give both --tls-cert and --tls-key")
    return Tls(certificate=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca)


def _shelves(
    options: argparse.Namespace, bundles: Sequence[Bundle], loading: _Loading
) -> dict[str, Shelf]:
    """Where each model is loaded from anew: the place the command line named it by."""
    trust = Trust.from_files(options.trust, allow_unsigned=options.allow_unsigned)

    shelves: dict[str, Shelf] = {}
    for bundle, name in zip(bundles, options.bundles, strict=True):
        if name.startswith(REGISTRY_PREFIX):
            registry, model, channels = _in_registry(name)
            shelves[model] = RegistryShelf(
                registry=registry,
                model=model,
                channels=channels,
                policy=options.versions,
                trust=trust,
                load=loading.loaded,
            )
        else:
            shelves[bundle.manifest.model] = FolderShelf(
                path=Path(name), trust=trust, load=loading.loaded
            )
    return shelves


def prior_lookup(scorers: Sequence[ServedScorer]) -> Callable[[str], ScoreReply | None]:
    """What ``GET /v1/models/{m}/prior`` answers: every item with its popularity."""
    replies = {scorer.info.name: _prior_reply(scorer) for scorer in scorers}
    return replies.get


def _prior_reply(scorer: ServedScorer) -> ScoreReply | None:
    scores = scorer.prior()
    if scores is None:
        return None
    return ScoreReply(
        model=scorer.info.name,
        bundle=scorer.info.bundle,
        scores=np.array(scores[1:], np.float32),
        items=np.arange(1, len(scores), dtype=np.int64),
    )


def _warm_up(bundles: Sequence[Bundle]) -> dict[str, ScoreRequest]:
    golden = {bundle.manifest.model: bundle.golden() for bundle in bundles}
    return {model: pairs[0][0] for model, pairs in golden.items() if pairs}


def _place(name: str, policy: VersionPolicy) -> Path:
    """The folder of the bundle that answers first."""
    if not name.startswith(REGISTRY_PREFIX):
        return Path(name)
    registry, model, channels = _in_registry(name)
    default = wanted_of(registry, model, channels, policy).default
    assert default is not None  # a registry always says which
    return registry.place(model, default)


def _in_registry(name: str) -> tuple[Registry, str, tuple[str, ...]]:
    """The registry, the model and the channels that ``registry:FOLDER/MODEL[/CHANNELS]`` names."""
    folder, _, rest = name.removeprefix(REGISTRY_PREFIX).rpartition("/")
    if (Path(folder) / "channels").is_dir():
        return Registry(Path(folder)), rest, (DEFAULT_CHANNEL,)
    folder, _, model = folder.rpartition("/")
    if not folder or not (Path(folder) / "channels").is_dir():
        raise ConfigurationError(
            f"{name!r} names no registry; write registry:FOLDER/MODEL or registry:FOLDER/MODEL/"
            "CHANNEL"
        )
    return Registry(Path(folder)), model, tuple(dict.fromkeys(rest.split(",")))

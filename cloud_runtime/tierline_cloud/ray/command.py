"""`tierline cloud deploy --ray`: the options, and what they mean."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tierline import ConfigurationError
from tierline.cli import EXIT_DONE
from tierline_cloud.ray.plan import DOWNSCALE_DELAY, UPSCALE_DELAY, Plan
from tierline_cloud.ray.scaling import Goals
from tierline_serving.access.audit import AuditLog
from tierline_serving.access.tls import Tls
from tierline_serving.batching.limits import DEFAULT_MAX_BATCH_ROWS, BatchLimits
from tierline_serving.bundle import Bundle
from tierline_serving.serve_options import add_bundle_options, open_bundles
from tierline_serving.server import say_line
from tierline_serving.settings import ServerSettings
from tierline_serving.signing import Trust

if TYPE_CHECKING:
    from tierline_cloud.ray.replica import ReplicaOptions

PATIENCE = 300.0  # seconds: nodes may have to be added and large bundles read


def add_deploy_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """What to deploy, how much of it, and where."""
    add_bundle_options(parser)
    parser.add_argument("--ray", action="store_true", help="on Ray Serve: say so")
    parser.add_argument("--address", default="auto", help="of the Ray cluster; default: found")
    parser.add_argument("--name", default=Plan().name, help="of the deployment; again: an upgrade")
    parser.add_argument(
        "--replicas", default=f"{Plan().min_replicas}:{Plan().max_replicas}", metavar="MIN[:MAX]",
        help="of each region; default 2:8. One number: no scaling",
    )  # fmt: skip
    parser.add_argument("--cpus", type=float, default=Plan().cpus, help="a replica takes")
    parser.add_argument("--gpus", type=float, default=Plan().gpus, help="a replica takes")
    parser.add_argument(
        "--region", action="append", default=[],
        help="replicas on the nodes labelled ray.io/region=REGION only; again: one more region",
    )  # fmt: skip
    parser.add_argument(
        "--queue-delay", type=float, default=Goals().delay, metavar="SECONDS",
        help="requests may wait so long before replicas are added",
    )  # fmt: skip
    parser.add_argument("--upscale-delay", type=float, default=UPSCALE_DELAY, metavar="SECONDS")
    parser.add_argument("--downscale-delay", type=float, default=DOWNSCALE_DELAY, metavar="SECONDS")
    parser.add_argument("--max-batch-rows", type=int, default=DEFAULT_MAX_BATCH_ROWS)
    parser.add_argument("--host", default="127.0.0.1", help="the proxies listen on, on every node")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--allow-remote", action="store_true", help="listen beyond this machine")
    parser.add_argument("--keys", type=Path, help="key file, on every node: callers need a key")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain (PEM), on every node")
    parser.add_argument("--tls-key", type=Path, help="its private key (PEM), on every node")
    parser.add_argument("--tls-client-ca", type=Path, help="callers need its certificates (PEM)")
    parser.add_argument("--audit", type=Path, help="log the deployment is written to")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS")


def run_deploy(options: argparse.Namespace) -> int:
    """Verify the bundles here, deploy them, and say where they answer. Raises TierlineError."""
    if not options.ray:
        raise ConfigurationError("say where to: tierline cloud deploy --ray BUNDLE…")
    plan, settings = plan_of(options), _settings(options)
    bundles = open_bundles(options)
    # Imported here: a wrong option must be told before Ray has taken its seconds to load.
    from tierline_cloud.ray.deploying import Where, deploy

    where = Where(address=options.address, host=options.host, port=options.port, tls=settings.tls)
    what = "; ".join(f"model {each.manifest.model}, bundle {each.id}" for each in bundles)
    deploy(
        plan,
        _replica_options(options, settings, bundles),
        where,
        patience=options.patience,
        say=say_line,
    )
    if options.audit is not None:
        _write_audit(options.audit, plan, bundles)
    say_line(f"deployed on {where.url} and every other node's proxy ({what})")
    return EXIT_DONE


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe. Raises ConfigurationError."""
    least, most = _replicas(options.replicas)
    try:
        goals = Goals(delay=options.queue_delay)
    except ValueError as error:
        raise ConfigurationError(str(error), key="queue_delay") from error
    return Plan(
        name=options.name,
        min_replicas=least,
        max_replicas=most,
        cpus=options.cpus,
        gpus=options.gpus,
        regions=tuple(options.region),
        goals=goals,
        upscale_delay=options.upscale_delay,
        downscale_delay=options.downscale_delay,
    )


def _replicas(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    if not least.isdecimal() or not (most or least).isdecimal():
        raise ConfigurationError(f"must be MIN or MIN:MAX, got {text!r}", key="replicas")
    return int(least), int(most or least)


def _settings(options: argparse.Namespace) -> ServerSettings:
    files = (options.tls_cert, options.tls_key)
    if (None in files) != (files == (None, None)):
        raise ConfigurationError("give both --tls-cert and --tls-key")
    if options.tls_cert is None and options.tls_client_ca is not None:
        raise ConfigurationError("--tls-client-ca needs --tls-cert and --tls-key")
    tls = None
    if options.tls_cert is not None:
        tls = Tls(
            certificate=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca
        )
    return ServerSettings(
        host=options.host,
        port=options.port,
        allow_remote=options.allow_remote,
        batch=BatchLimits(max_batch_rows=options.max_batch_rows),
        keys=None if options.keys is None else options.keys.absolute(),
        tls=tls,
    )


def _replica_options(
    options: argparse.Namespace, settings: ServerSettings, bundles: list[Bundle]
) -> ReplicaOptions:
    from tierline_cloud.ray.replica import Placed, ReplicaOptions

    return ReplicaOptions(
        bundles=tuple(Placed(folder=str(each.path.absolute()), bundle=each.id) for each in bundles),
        # The keys themselves travel: whom to trust is decided here, not by files on the nodes.
        trust=Trust.from_files(options.trust, allow_unsigned=options.allow_unsigned),
        settings=settings,
        threads=options.threads or max(1, int(options.cpus)),
        allowed=tuple(options.allow_module),
    )


def _write_audit(path: Path, plan: Plan, bundles: list[Bundle]) -> None:
    for bundle in bundles:
        AuditLog(path).append(
            actor="deploy",
            action="ray.deploy",
            subject=bundle.manifest.model,
            detail={"bundle": bundle.id, "name": plan.name, "at": datetime.now(UTC).isoformat()},
        )

"""`tierline cloud`: serve full torch models, from this machine or from a Ray cluster."""

from __future__ import annotations

import argparse

from tierline.cli import Command

_PORT = 8201
_NEEDS = ("torch", "safetensors", "numba", "uvicorn", "prometheus_client", "cryptography")


def _configure(parser: argparse.ArgumentParser) -> None:
    # Imported here: the overview of commands must not wait for the serving stack.
    if CLOUD.missing():
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        return
    from tierline_cloud.ray.command import add_deploy_options
    from tierline_serving.serve_options import add_serve_options

    actions = parser.add_subparsers(dest="action", required=True, metavar="serve|deploy")
    serving = actions.add_parser(
        "serve",
        help="answer score calls until SIGTERM",
        epilog="example: tierline cloud serve registry:reg/ranker/cloud --port 8201",
    )
    add_serve_options(serving, port=_PORT)
    deploying = actions.add_parser(
        "deploy",
        help="answer them beyond one machine",
        epilog="example: tierline cloud deploy --ray registry:reg/ranker/cloud --replicas 2:8",
    )
    add_deploy_options(deploying, port=_PORT)
    for each in (serving, deploying):
        each.add_argument(
            "--allow-module",
            action="append",
            default=[],
            metavar="PACKAGE",
            help="let bundles bring code of this package",
        )


def _run(options: argparse.Namespace) -> int:
    if options.action == "deploy":
        from tierline_cloud.ray.command import run_deploy

        return run_deploy(options)
    from tierline_cloud.serve.scorer import TorchScorer, load_scorer
    from tierline_serving.bundle import Bundle
    from tierline_serving.serve_options import run_server

    def load(bundle: Bundle) -> TorchScorer:
        return load_scorer(bundle, threads=options.threads, allowed=options.allow_module)

    return run_server(options, load)


CLOUD = Command(
    name="cloud",
    summary="Serve full torch models.",
    configure=_configure,
    run=_run,
    example="tierline cloud serve registry:reg/ranker/cloud --port 8201",
    needs=_NEEDS,
    extra="cloud",
)

"""`tierline edge`: serve bundles from this node, or check one without serving it."""

from __future__ import annotations

import argparse
import json
import sys

from tierline.cli import EXIT_DONE, Command

_NEEDS = ("onnxruntime", "numba", "uvicorn", "prometheus_client", "cryptography")


def _configure(parser: argparse.ArgumentParser) -> None:
    # Imported here: the overview of commands must not wait for the serving stack.
    if EDGE.missing():
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        return
    from tierline_serving.serve_options import add_bundle_options, add_serve_options

    actions = parser.add_subparsers(dest="action", required=True, metavar="serve | check")
    serving = actions.add_parser(
        "serve",
        help="answer score calls until SIGTERM",
        epilog="example: tierline edge serve registry:reg/ranker --port 8101",
    )
    add_serve_options(serving, port=8101)
    checking = actions.add_parser(
        "check",
        help="verify, load and ask the golden requests; exit code 3 when refused",
        epilog="example: tierline edge check run/bundles/ranker-edge --allow-unsigned",
    )
    add_bundle_options(checking)
    checking.add_argument("--json", action="store_true", help="print the descriptions as JSON")
    for each in (serving, checking):
        each.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")


def _run(options: argparse.Namespace) -> int:
    from tierline_edge.scorer import EdgeScorer, load_scorer
    from tierline_serving.bundle import Bundle
    from tierline_serving.serve_options import open_bundles, run_server

    def load(bundle: Bundle) -> EdgeScorer:
        return load_scorer(bundle, provider=options.provider, threads=options.threads)

    if options.action == "serve":
        return run_server(options, load)
    for bundle in open_bundles(options):
        info = load(bundle).info
        described = {name: getattr(info, name) for name in type(info).__dataclass_fields__}
        sentence = f"{info.name} {info.bundle} loads on {info.engine} and answers as it should."
        sys.stdout.write((json.dumps(described) if options.json else sentence) + "\n")
    return EXIT_DONE


EDGE = Command(
    name="edge",
    summary="Serve edge bundles from this node, or check one.",
    configure=_configure,
    run=_run,
    example="tierline edge serve registry:reg/ranker --port 8101",
    needs=_NEEDS,
    extra="edge",
)

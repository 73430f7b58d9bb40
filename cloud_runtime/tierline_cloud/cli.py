"""`tierline train`, `compress` and `evaluate`: the command line of the model factory."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tierline import ConfigurationError
from tierline.cli import EXIT_DONE, Command
from tierline_cloud.serve.cli import CLOUD

if TYPE_CHECKING:
    from tierline_cloud.run import TrainOptions

__all__ = ["CLOUD", "COMPRESS", "EVALUATE", "TRAIN"]

_NEEDS = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "numba", "rich")
_FORMATS = ("s3rec", "inter", "csv")
_SPLITS = ("leave-one-out", "global-time")


def _configure_run(parser: argparse.ArgumentParser) -> None:
    """What decides about a run of the factory: the same options find the same run again."""
    parser.add_argument("data", nargs="?", type=Path, help="interactions; none with --synthetic")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; resumed if it exists"
    )
    parser.add_argument("--format", choices=_FORMATS, help="of DATA; default: by its suffix")
    parser.add_argument("--synthetic", action="store_true", help="train on a generated shop")
    parser.add_argument("--users", type=int, default=4000, help="of the generated shop")
    parser.add_argument("--items", type=int, default=1500, help="of the generated shop")
    known = "quick, full, partial, born-again or a .toml file"
    parser.add_argument("--recipe", default="full", help=known)
    parser.add_argument("--split", choices=_SPLITS, help="default: the recipe's (leave-one-out)")
    parser.add_argument("--epochs", type=int, help="at most this many for each model")
    parser.add_argument("--max-minutes", type=float, help="bound the whole run, about")
    parser.add_argument("--escalation", type=float, default=0.15, help="share to send to the cloud")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads to train with")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, help="also write all results here")


def _configure_train(parser: argparse.ArgumentParser) -> None:
    _configure_run(parser)
    parser.add_argument(
        "--kind", choices=("sequence", "ctr"), default="sequence",
        help="sequence: next items of a history; ctr: clicks from dense and sparse features",
    )  # fmt: skip
    parser.add_argument("--model", default="ranker", help="name the bundles carry")
    parser.add_argument("--registry", type=Path, help="publish both bundles to this local registry")
    parser.add_argument("--key", type=Path, help="sign with this Ed25519 private key (PEM)")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="WEIGHTS",
        help="fine-tune the cloud's network from a cloud bundle or a checkpoint",
    )  # fmt: skip


def _run_options(options: argparse.Namespace) -> TrainOptions:
    if options.synthetic == (options.data is not None):
        raise ConfigurationError("give either DATA or --synthetic, not both and not neither")
    # Imported here: torch takes seconds, and the overview of commands must not wait for it.
    from tierline_cloud.run import TrainOptions

    return TrainOptions(
        data=options.data,
        kind=options.format,
        out=options.out,
        recipe=options.recipe,
        users=options.users,
        items=options.items,
        epochs=options.epochs,
        max_minutes=options.max_minutes,
        escalation=options.escalation,
        seed=options.seed,
        model=getattr(options, "model", "ranker"),
        registry=getattr(options, "registry", None),
        key=getattr(options, "key", None),
        threads=options.threads,
        device=options.device,
        split=options.split,
        start=getattr(options, "start", None),
    )


def _train(options: argparse.Namespace) -> int:
    chosen = _run_options(options)
    from tierline_cloud.run import train, train_ctr

    result = train_ctr(chosen) if options.kind == "ctr" else train(chosen)
    if not result.document:  # rank 0 reports for all processes of torchrun
        return EXIT_DONE
    return _finish(result.table, result.document, options.json)


def _configure_compress(parser: argparse.ArgumentParser) -> None:
    _configure_run(parser)
    parser.add_argument("--no-latency", action="store_true", help="sizes and quality only")


def _compress(options: argparse.Namespace) -> int:
    chosen = _run_options(options)
    from tierline_cloud.run import compress

    result = compress(chosen, timed=not options.no_latency)
    return _finish(result.table, result.document, options.json)


def _configure_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("edge", type=Path, metavar="EDGE_BUNDLE")
    parser.add_argument("cloud", type=Path, metavar="CLOUD_BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--format", choices=_FORMATS, help="of DATA; default: by its suffix")
    parser.add_argument(
        "--allow-unsigned", action="store_true", help="take bundles without a signature"
    )
    parser.add_argument(
        "--key", type=Path, action="append", default=[], help="public key to trust (PEM)"
    )
    parser.add_argument("--split", choices=_SPLITS, default="leave-one-out")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads to use")
    parser.add_argument(
        "--sampled", action="store_true", help="also rank among 99 sampled items (misleading)"
    )
    parser.add_argument(
        "--prices", type=Path, metavar="TOML", help="of a call: cost per thousand at every quality"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw loss, cost and reliability (PNG, SVG)"
    )
    parser.add_argument("--json", type=Path, help="also write all results here")


def _evaluate(options: argparse.Namespace) -> int:
    from tierline_cloud.evaluating import EvaluateOptions
    from tierline_cloud.run import evaluate

    result = evaluate(
        EvaluateOptions(
            edge=options.edge,
            cloud=options.cloud,
            data=options.data,
            kind=options.format,
            keys=tuple(options.key),
            allow_unsigned=options.allow_unsigned,
            threads=options.threads,
            sampled=options.sampled,
            prices=options.prices,
            plots=options.plots,
            split=options.split,
        )
    )
    return _finish(result.table, result.document, options.json)


def _finish(table: str, document: dict[str, object], target: Path | None) -> int:
    sys.stdout.write(table + "\n")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return EXIT_DONE


TRAIN = Command(
    name="train",
    summary="Train, compress, calibrate and pack an edge and a cloud model.",
    configure=_configure_train,
    run=_train,
    example="tierline train --synthetic --recipe quick --out demo-run",
    needs=_NEEDS,
    extra="cloud",
)

COMPRESS = Command(
    name="compress",
    summary="Climb the compression ladder of a run: size, quality kept and latency of each rung.",
    configure=_configure_compress,
    run=_compress,
    example="tierline compress interactions.csv --recipe full --out run",
    needs=_NEEDS,
    extra="cloud",
)

EVALUATE = Command(
    name="evaluate",
    summary="Compare edge only, tiered and cloud only serving on interaction data.",
    configure=_configure_evaluate,
    run=_evaluate,
    example="tierline evaluate EDGE_BUNDLE CLOUD_BUNDLE interactions.csv --allow-unsigned",
    needs=_NEEDS,
    extra="cloud",
)

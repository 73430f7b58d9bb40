"""`tierline text`: make a catalogue searchable by text, and judge how well it is searched."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tierline.cli import EXIT_DONE, Command

_NEEDS = ("torch", "safetensors", "numba", "tokenizers", "cryptography")


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="index | evaluate")
    indexing = actions.add_parser(
        "index",
        help="encode a catalogue and pack it as a cloud bundle",
        epilog="example: tierline text index MODEL_FOLDER items.jsonl --out bundles --key key.pem",
    )
    indexing.add_argument("folder", type=Path, metavar="FOLDER", help="a Hugging Face folder")
    indexing.add_argument(
        "items", type=Path, metavar="ITEMS", help='a line an item: {"id": 17, "text": "…"}'
    )
    indexing.add_argument("--out", type=Path, required=True, help="folder the bundle goes to")
    indexing.add_argument("--model", default="products", help="name the bundle carries")
    indexing.add_argument("--key", type=Path, help="sign with this Ed25519 private key (PEM)")
    indexing.add_argument("--max-tokens", type=int, help="read at most so many of a text")
    indexing.add_argument(
        "--rescored", type=int, default=100, help="how many late interaction orders anew"
    )
    judging = actions.add_parser(
        "evaluate",
        help="search a made-up shop: one vector against late interaction",
        epilog="example: tierline text evaluate MODEL_FOLDER",
    )
    judging.add_argument("folder", type=Path, metavar="FOLDER", help="a Hugging Face folder")
    judging.add_argument("--items", type=int, default=1200, help="of the made-up shop")
    judging.add_argument("--queries", type=int, default=300)
    judging.add_argument("--seed", type=int, default=0)
    judging.add_argument("--json", type=Path, help="also write all results here")
    for each in (indexing, judging):
        each.add_argument("--threads", type=int, default=2, help="CPU threads to use")


def _run(options: argparse.Namespace) -> int:
    # Imported here: torch takes seconds, and the overview of commands must not wait for it.
    import torch

    torch.set_num_threads(options.threads)
    return _evaluate(options) if options.action == "evaluate" else _index(options)


def _index(options: argparse.Namespace) -> int:
    from tierline_cloud.text.run import IndexOptions, index_text
    from tierline_cloud.training.console import Console

    chosen = IndexOptions(
        folder=options.folder,
        items=options.items,
        out=options.out,
        model=options.model,
        key=options.key,
        max_tokens=options.max_tokens,
        rescored=options.rescored,
    )
    _, told = index_text(chosen, Console(), datetime.now(UTC))
    sys.stdout.write(told + "\n")
    return EXIT_DONE


def _evaluate(options: argparse.Namespace) -> int:
    from tierline_cloud.text.evaluation import evaluate_folder, table

    document = evaluate_folder(options.folder, options.items, options.queries, options.seed)
    sys.stdout.write(table(document) + "\n")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return EXIT_DONE


TEXT = Command(
    name="text",
    summary="Make a catalogue searchable by text.",
    configure=_configure,
    run=_run,
    example="tierline text index MODEL_FOLDER items.jsonl --out bundles --key key.pem",
    needs=_NEEDS,
    extra="text",
)

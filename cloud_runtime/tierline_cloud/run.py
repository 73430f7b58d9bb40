"""What `tierline train`, `compress` and `evaluate` do once their options are read."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tierline import ConfigurationError
from tierline_cloud.bundles import write_bundles
from tierline_cloud.certified import certificate_claim
from tierline_cloud.click_run import ClickFactory, clicks_table, seeded, write_click_bundles
from tierline_cloud.evaluating import EvaluateOptions, evaluate_pair
from tierline_cloud.factory import Factory, Source
from tierline_cloud.ladder import LADDER_FILE, Ladder, known_ladder
from tierline_cloud.publishing import publish
from tierline_cloud.recipe_files import find_recipe
from tierline_cloud.recipes import Recipe
from tierline_cloud.stages import Stage, content_key
from tierline_cloud.tables import ladder_table, train_table
from tierline_cloud.training.console import Console
from tierline_cloud.training.world import World, chosen_device, open_world
from tierline_serving.signing import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The command line of `tierline train`. ``data`` None: the generated shop."""

    data: Path | None
    kind: str | None
    out: Path
    recipe: str
    users: int
    items: int
    epochs: int | None
    max_minutes: float | None
    escalation: float
    seed: int
    model: str
    registry: Path | None
    key: Path | None
    threads: int
    device: str = "auto"
    split: str | None = None  # None: the recipe's
    start: Path | None = None  # a bundle or checkpoint to fine-tune from


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A table for people and the same as plain values for programs."""

    table: str
    document: dict[str, Any]  # Any: plain JSON values


def train(options: TrainOptions, console: Console | None = None) -> Outcome:
    """Run the factory (or what is left of it), write both bundles, publish them if asked to. Of the
    processes torchrun started, rank 0 writes and reports; the others' outcome is empty."""
    signer = None if options.key is None else Signer.from_file(options.key)
    console = console or Console()
    with open_world(options.device) as world:
        silent = Console(io.StringIO())
        factory = _factory(options, console if world.is_writer else silent, world)
        stages = factory.report()
        if not world.is_writer:
            return Outcome(table="", document={})
    factory.go_on_alone()
    packed = _pack(factory, options, signer)
    document: dict[str, Any] = {
        "recipe": asdict(factory.recipe),
        "stages": stages,
        "bundles": packed.result["folders"],
        "certificate": packed.result["certificate"],
    }
    if options.registry is not None:
        document["published"] = publish(options.registry, packed.result["folders"], signer)
    (options.out / "results.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return Outcome(table=train_table(document), document=document)


def train_ctr(options: TrainOptions, console: Console | None = None) -> Outcome:
    """Train a click model on impressions, write a bundle for each tier, publish if asked to."""
    if options.data is None:
        raise ConfigurationError("--kind ctr needs DATA: impressions with features and labels")
    _use_threads(options.threads)
    signer = None if options.key is None else Signer.from_file(options.key)
    options.out.mkdir(parents=True, exist_ok=True)
    training = seeded(options.seed, options.epochs)
    factory = ClickFactory(options.data, options.out, console or Console(), training)
    stage = factory.trained()
    destination = options.out / "bundles"

    def make(folder: Path, key: str) -> dict[str, Any]:
        bundles = write_click_bundles(
            stage,
            factory.clicks,
            model=options.model,
            destination=destination,
            signer=signer,
            now=datetime.now(UTC),
        )
        return {tier: str(bundle.path) for tier, bundle in bundles.items()}

    signed_by = None if signer is None else signer.public_key.key_id
    inputs = {"model": options.model, "key": signed_by, "destination": str(destination)}
    folders = factory.store.run("bundles", make, inputs=inputs, after=(stage,)).result
    document = {**stage.result, "bundles": folders}
    if options.registry is not None:
        document["published"] = publish(options.registry, folders, signer)
    return Outcome(table=clicks_table(document), document=document)


def compress(
    options: TrainOptions, *, timed: bool = True, console: Console | None = None
) -> Outcome:
    """Climb the recipe's compression ladder with the networks of a run (trained if they are not
    yet); ``timed`` measures every rung's latency now."""
    factory = _factory(options, console or Console(), World(device=chosen_device(options.device)))
    document = Ladder(factory, factory.recipe.ladder).report(timed=timed)
    (options.out / LADDER_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return Outcome(table=ladder_table(document), document=document)


def _factory(options: TrainOptions, console: Console, world: World) -> Factory:
    _use_threads(options.threads)
    try:
        recipe = chosen_recipe(options)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    options.out.mkdir(parents=True, exist_ok=True)
    source = Source(path=options.data, kind=options.kind)
    return Factory(source, recipe, options.out, console, seed=options.seed,
                   start=options.start, world=world)  # fmt: skip


def chosen_recipe(options: TrainOptions) -> Recipe:
    """The recipe of this name or file with the options laid over it. Raises ValueError for
    impossible ones, ConfigurationError for what is no recipe."""
    recipe = find_recipe(options.recipe)
    if options.split is not None:
        recipe = replace(recipe, split=options.split)
    shop = replace(recipe.shop, users=options.users, items=options.items)
    recipe = replace(recipe, shop=shop, escalation=options.escalation).seeded(options.seed)
    if options.max_minutes is not None:
        recipe = recipe.within(options.max_minutes)
    if options.epochs is not None:
        recipe = recipe.at_most(options.epochs)
    return recipe


def _pack(factory: Factory, options: TrainOptions, signer: Signer | None) -> Stage:
    """Bundles are written once per result: a resumed run finds the same ones."""
    destination = options.out / "bundles"

    def make(folder: Path, key: str) -> dict[str, Any]:
        bundles = write_bundles(
            factory,
            model=options.model,
            destination=destination,
            signer=signer,
            now=datetime.now(UTC),
        )
        return {
            "folders": {tier: str(bundle.path) for tier, bundle in bundles.items()},
            "ids": {tier: bundle.id for tier, bundle in bundles.items()},
            "certificate": certificate_claim(bundles["edge"], bundles["cloud"]),
        }

    signed_by = None if signer is None else signer.public_key.key_id
    ladder = known_ladder(factory)
    inputs = {
        "model": options.model,
        "key": signed_by,
        "destination": str(destination),
        "certificate": [factory.recipe.alpha, factory.recipe.delta],
        **({} if ladder is None else {"ladder": content_key(ladder)}),
    }
    if not destination.is_dir():  # deleted since: then pack again
        (options.out / "stages" / "bundles" / "stage.json").unlink(missing_ok=True)
    after = (factory.evaluated, factory.quantized)
    return factory.store.run("bundles", make, inputs=inputs, after=after)


def evaluate(options: EvaluateOptions) -> Outcome:
    """Serve every user's test request from both bundles and say what the pair is worth."""
    _use_threads(options.threads)
    table, document = evaluate_pair(options)
    return Outcome(table=table, document=document)


def _use_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigurationError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(min(threads, os.cpu_count() or 1))

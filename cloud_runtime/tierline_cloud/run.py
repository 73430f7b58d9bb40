"""What `tierline train`, `compress` and `evaluate` do once their options are read."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tierline import BundleRefused, ConfigurationError
from tierline_cloud.bundles import write_bundles
from tierline_cloud.click_run import ClickFactory, clicks_table, seeded, write_click_bundles
from tierline_cloud.data import LEAVE_ONE_OUT, pad_left, read_interactions, split_by
from tierline_cloud.evaluation import (
    factor_scores,
    paired_bootstrap,
    rank_catalogue,
    ranking_metrics,
    sampled_ranks,
    spearman,
    tier_table,
)
from tierline_cloud.evaluation.agreement import agreement_loss
from tierline_cloud.evaluation.gate import gate_lines, gate_report
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.export import EdgeSession
from tierline_cloud.factory import Factory, Source, served_states
from tierline_cloud.ladder import Ladder
from tierline_cloud.loading import item_table, load_cloud, sequence_of
from tierline_cloud.models.blend import blended
from tierline_cloud.publishing import publish
from tierline_cloud.recipe_files import find_recipe
from tierline_cloud.recipes import Recipe
from tierline_cloud.stages import Stage, StageStore
from tierline_cloud.tables import certificate_line, ladder_table, tiers_table, train_table
from tierline_cloud.training.console import Console
from tierline_cloud.training.loop import hidden_states
from tierline_cloud.training.world import World, chosen_device, open_world
from tierline_serving.bundle import Bundle, open_bundle
from tierline_serving.certified import standing
from tierline_serving.signing import Signer, Trust


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
    packed = _pack(factory, options, signer, console)
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


def _pack(
    factory: Factory, options: TrainOptions, signer: Signer | None, console: Console
) -> Stage:
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
    inputs = {
        "model": options.model,
        "key": signed_by,
        "destination": str(destination),
        "certificate": [factory.recipe.alpha, factory.recipe.delta],
    }
    if not destination.is_dir():  # deleted since: then pack again
        (options.out / "stages" / "bundles" / "stage.json").unlink(missing_ok=True)
    store = StageStore(options.out / "stages", console)
    return store.run("bundles", make, inputs=inputs, after=(factory.evaluated, factory.quantized))


def certificate_claim(edge: Bundle, cloud: Bundle) -> dict[str, Any]:
    """What the pair's certificate says: where alpha holds, and what holds at the threshold set."""
    certificate = edge.manifest.certificate
    status = standing(edge.manifest, cloud=cloud.digest)
    if certificate is None or status is None:
        return {"refused": edge.manifest.metrics.get("certificate_refused", "it carries none")}
    at = next(p for p in certificate.curve if p.threshold == certificate.threshold)
    return {
        "id": certificate.id,
        "alpha": certificate.alpha,
        "delta": certificate.delta,
        "n": certificate.n,
        "threshold": certificate.threshold,
        "escalation": at.escalation,
        "status": asdict(status),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """The command line of `tierline evaluate`."""

    edge: Path
    cloud: Path
    data: Path
    kind: str | None
    keys: tuple[Path, ...]
    allow_unsigned: bool
    threads: int
    sampled: bool = False  # also the 99-negatives protocol, with its warning
    split: str = LEAVE_ONE_OUT


def evaluate(options: EvaluateOptions) -> Outcome:
    """Serve every user's test request from both bundles and compare the three ways of serving."""
    _use_threads(options.threads)
    trust = Trust.from_files(options.keys, allow_unsigned=options.allow_unsigned)
    edge, cloud = open_bundle(options.edge, trust), open_bundle(options.cloud, trust)
    _check_pair(edge, cloud)
    try:
        split = split_by(options.split, read_interactions(options.data, options.kind))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    known, found = sequence_of(edge).items, split.train.n_items
    if found > known:
        raise ConfigurationError(f"the data has item {found}; the bundles know 1..{known}")
    histories = replace(split.test_history, n_items=known)
    rows = item_table(edge)
    session = EdgeSession(edge.model_bytes(), rows, threads=options.threads)
    outputs = session.run(pad_left(histories, sequence_of(edge).max_history))
    scores = factor_scores(served_states(outputs.hidden), rows)
    fast = rank_catalogue(scores, histories, split.test_target)
    model = load_cloud(cloud)
    states = hidden_states(model.network, histories)
    slow_scores = blended(states, model.table, histories, model.neighbours)
    full = rank_catalogue(slow_scores, histories, split.test_target)
    uncertainty = outputs.uncertainty.astype(np.float64)
    table = tier_table(fast, full, uncertainty, _threshold(edge))
    document: dict[str, Any] = {
        "edge": edge.id,
        "cloud": cloud.id,
        "users": int(uncertainty.size),
        "tiers": [asdict(row) for row in table],
        "spearman": spearman(uncertainty, agreement_loss(fast.top, full.top)),
        "cloud_minus_edge": asdict(paired_bootstrap(ndcg(full.ranks, 10), ndcg(fast.ranks, 10))),
        "gate": gate_report(fast, full, uncertainty),
        "certificate": certificate_claim(edge, cloud),
    }
    if options.sampled:
        document["sampled"] = {
            tier: ranking_metrics(
                sampled_ranks(scored, histories, split.test_target, allow_sampled=True)
            )
            for tier, scored in (("edge", scores), ("cloud", slow_scores))
        }
    parts = [tiers_table(document), gate_lines(document["gate"])]
    return Outcome(
        table="\n\n".join([*parts, certificate_line(document["certificate"])]), document=document
    )


def _check_pair(edge: Bundle, cloud: Bundle) -> None:
    for bundle, tier in ((edge, "edge"), (cloud, "cloud")):
        if bundle.manifest.tier != tier or bundle.manifest.kind != "sequence":
            found = f"a {bundle.manifest.tier} bundle of kind {bundle.manifest.kind}"
            raise BundleRefused(
                f"{bundle.path}: expected the {tier} bundle of kind sequence, not {found}"
            )
    if sequence_of(edge).items != sequence_of(cloud).items:
        raise BundleRefused("the two bundles have catalogues of different size")


def _threshold(edge: Bundle) -> float:
    said = edge.manifest.uncertainty
    if said is None or said.threshold is None:
        raise BundleRefused(f"bundle {edge.path}: without an uncertainty threshold nothing tiers")
    return said.threshold


def _use_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigurationError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(min(threads, os.cpu_count() or 1))

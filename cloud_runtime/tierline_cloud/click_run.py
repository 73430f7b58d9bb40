"""The factory of click models: from impressions to a calibrated model, its graph, two bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any  # plain JSON values

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tierline import ConfigurationError
from tierline.wire import ScoreReply, ScoreRequest
from tierline_cloud.data.clicks import Clicks, read_clicks
from tierline_cloud.evaluation import auc, brier_score, calibration_error, log_loss
from tierline_cloud.export import (
    BATCH_TOLERANCE,
    OPSET,
    PARITY_TOLERANCE,
    BatchVarianceError,
    ParityError,
    export_graph,
    open_session,
    row_scores,
    row_variance,
)
from tierline_cloud.models.ctr import ClickConfig, ClickModel
from tierline_cloud.stages import Result, Stage, StageStore, file_digest
from tierline_cloud.training.clicks import probabilities, train_clicks
from tierline_cloud.training.config import TrainConfig
from tierline_cloud.training.console import Console
from tierline_serving.bundle import Bundle, write_bundle
from tierline_serving.golden import pack_replies, pack_requests
from tierline_serving.manifest import utc_instant
from tierline_serving.signing import Signer

BUCKETS = 10_000  # a sparse field's; more collide less and weigh more
TRAINING = TrainConfig(epochs=20, batch=1024, rate=2e-3, weight_decay=1e-6, patience=2)
TRAIN_UNTIL, VALID_UNTIL = 0.8, 0.9  # of the impressions, in time order
MEASURES = ("auc", "log_loss", "brier", "ece")
GOLDEN_ROWS, CHECKED_ROWS = 8, 512

Probabilities = NDArray[np.float64]


class ClickFactory:
    """One run on one file: a trained and calibrated model, its graph, and what it is worth."""

    def __init__(self, data: Path, out: Path, console: Console, training: TrainConfig) -> None:
        self.data, self.out, self.console, self.training = data, out, console, training
        self.store = StageStore(out / "stages", console)
        self._clicks: Clicks | None = None

    @property
    def clicks(self) -> Clicks:
        """All impressions, read once. Raises DataError and ConfigurationError."""
        if self._clicks is None:
            found = read_clicks(self.data, buckets=BUCKETS)
            if not found.fields.dense or not found.fields.sparse:
                raise ConfigurationError(
                    f"{self.data.name}: a click model takes dense and sparse features, found "
                    f"{len(found.fields.dense)} and {len(found.fields.sparse)}"
                )
            self._clicks = found
        return self._clicks

    def parts(self) -> tuple[Clicks, Clicks, Clicks]:
        """What trains, what validates and calibrates, what judges: earlier, later, last."""
        size = len(self.clicks)
        cuts = [0, int(size * TRAIN_UNTIL), int(size * VALID_UNTIL), size]
        train, valid, test = (self.clicks.part(start, stop) for start, stop in pairwise(cuts))
        for name, part in (("train", train), ("validation", valid), ("test", test)):
            if len(np.unique(part.labels)) < 2:
                raise ConfigurationError(
                    f"{self.data.name}: the {name} part needs impressions with and without a click"
                )
        return train, valid, test

    def trained(self) -> Stage:
        """The model, its graph and the test's figures."""
        if not self.data.is_file():
            raise ConfigurationError(f"{self.data} is no file: give the impressions' path")
        inputs = {
            "data": file_digest(self.data),
            "training": self.training.to_json(),
            "buckets": BUCKETS,
        }
        return self.store.run("clicks", self._train, inputs=inputs)

    def _train(self, folder: Path, key: str) -> Result:
        train, valid, test = self.parts()
        fields = self.clicks.fields
        shape = ClickConfig(dense=len(fields.dense), sparse=len(fields.sparse), buckets=BUCKETS)
        with self.console.track("train clicks", self.training.epochs) as tracker:
            model, report = train_clicks(shape, self.training, train, valid, tracker)
        save_file(model.state_dict(), folder / "model.safetensors")
        gates = export_clicks(model, folder / "model.onnx", test.part(0, CHECKED_ROWS))
        said = probabilities(model, test)
        flat = np.full(test.labels.size, train.labels.mean())
        return {
            "fields": asdict(fields),
            "shape": shape.to_json(),
            "impressions": [len(part) for part in (train, valid, test)],
            "training": asdict(report),
            "test": _worth(test.labels, said),
            "uncalibrated": _worth(test.labels, _uncalibrated(model, test)),
            "constant": _worth(test.labels, flat),
            "gates": gates,
            "bytes": (folder / "model.onnx").stat().st_size,
        }


def load_model(stage: Stage) -> ClickModel:
    """The trained model of a finished stage."""
    model = ClickModel(ClickConfig(**stage.result["shape"]))
    model.load_state_dict(load_file(stage.folder / "model.safetensors"))
    return model.eval()


def export_clicks(model: ClickModel, path: Path, clicks: Clicks) -> Result:
    """Write the graph (`dense`, `sparse` → `scores`) and hold it against the model on ``clicks``.
    Raises ParityError and BatchVarianceError."""
    example = {
        "dense": torch.zeros(2, model.config.dense),
        "sparse": torch.zeros(2, model.config.sparse, dtype=torch.int64),
    }
    export_graph(model, path, example, outputs=["scores"], rows="rows")
    session = open_session(path, threads=1)
    # Any: one array of floats, one of ids.
    rows: dict[str, NDArray[Any]] = {"dense": clicks.dense, "sparse": clicks.sparse}
    whole = row_scores(session, rows, len(clicks))
    gap = float(np.abs(whole - probabilities(model, clicks)).max())
    if gap > PARITY_TOLERANCE:
        raise ParityError(
            f"the exported graph differs from the model by {gap:.1e} (at most {PARITY_TOLERANCE})"
        )
    variance = row_variance(session, rows)
    if variance > BATCH_TOLERANCE:
        raise BatchVarianceError(
            f"probabilities depend on who else is in the batch, by {variance:.1e} "
            f"(at most {BATCH_TOLERANCE})"
        )
    return {"largest_difference": gap, "batch_variance": variance}


def write_click_bundles(
    stage: Stage, clicks: Clicks, *, model: str, destination: Path, signer: Signer | None,
    now: datetime,
) -> dict[str, Bundle]:  # fmt: skip
    """One bundle for each tier, kind tensor: `dense` and `sparse` of every candidate → `scores`."""
    fields = clicks.fields
    shared: dict[str, object] = {
        "format": 1,
        "model": model,
        "version": now.astimezone(UTC).strftime("%Y.%m.%d-%H%M%S"),
        "kind": "tensor",
        "created": utc_instant(now),
        "inputs": [
            _tensor("dense", "float32", len(fields.dense)),
            _tensor("sparse", "int64", len(fields.sparse)),
        ],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["rows"]}],
        "golden": {
            "requests": "golden.requests.bin",
            "replies": "golden.replies.bin",
            "tolerance": PARITY_TOLERANCE,
        },
        "metrics": {"test": stage.result["test"], "fields": stage.result["fields"],
                    "buckets": clicks.buckets},
    }  # fmt: skip
    golden = _golden(load_model(stage), clicks, model)
    engines: dict[str, dict[str, object]] = {
        "edge": {"engine": "onnx", "entry": "model.onnx", "opset": OPSET, "precision": "float32"},
        "cloud": {
            "engine": "torch",
            "entry": "model.safetensors",
            "factory": "tierline_cloud.models.ctr:click_model",
            "config": stage.result["shape"],
        },
    }
    return {
        tier: write_bundle(
            {str(runtime["entry"]): stage.folder / str(runtime["entry"]), **golden},
            {**shared, "tier": tier, "runtime": runtime},
            destination,
            signer,
        )
        for tier, runtime in engines.items()
    }


def clicks_table(document: Mapping[str, Any]) -> str:
    """A click model against its uncalibrated self and the constant rate, on later impressions."""
    train, valid, test = document["impressions"]
    gates = document["gates"]
    names = {"constant rate": "constant", "as trained": "uncalibrated", "calibrated": "test"}
    rows = [
        f"{name:<14}" + "".join(f"{document[at][key]:>10.4f}" for key in MEASURES)
        for name, at in names.items()
    ]
    return "\n".join(
        [
            f"impressions: {train:,} train, {valid:,} validate and calibrate, {test:,} test",
            "",
            f"{'':<14}" + "".join(f"{key.replace('_', ' '):>10}" for key in MEASURES),
            *rows,
            "",
            f"export: largest difference {gates['largest_difference']:.1e}; in pairs against "
            f"batches: {gates['batch_variance']:.1e}; graph {document['bytes'] / 1e6:.2f} MB",
            *(f"{tier} bundle: {path}" for tier, path in document["bundles"].items()),
        ]
    )


def seeded(seed: int, epochs: int | None) -> TrainConfig:
    """How click models are trained, with this seed and at most so many epochs."""
    config = replace(TRAINING, seed=seed)
    return config if epochs is None else replace(config, epochs=min(epochs, config.epochs))


def _golden(model: ClickModel, clicks: Clicks, name: str) -> dict[str, Path | bytes]:
    some = clicks.part(0, GOLDEN_ROWS)
    request = ScoreRequest(
        model=name, query={}, candidates={"dense": some.dense, "sparse": some.sparse}
    )
    scores = probabilities(model, some).astype(np.float32)
    reply = ScoreReply(model=name, bundle="golden", scores=scores)
    return {
        "golden.requests.bin": pack_requests([request]),
        "golden.replies.bin": pack_replies([reply]),
    }


def _uncalibrated(model: ClickModel, clicks: Clicks) -> Probabilities:
    """What the model said before its slope and shift were fitted."""
    raw = ClickModel(model.config)
    raw.load_state_dict(model.state_dict())
    raw.slope, raw.shift = torch.ones(()), torch.zeros(())
    return probabilities(raw, clicks)


def _worth(labels: Probabilities, said: Probabilities) -> dict[str, float]:
    return {
        "auc": auc(labels, said),
        "log_loss": log_loss(labels, said),
        "brier": brier_score(labels, said),
        "ece": calibration_error(labels, said),
    }


def _tensor(name: str, dtype: str, width: int) -> dict[str, object]:
    return {"name": name, "dtype": dtype, "shape": ["rows", width], "role": "candidate"}

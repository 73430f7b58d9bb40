"""No bundle is published whose answers depend on the company, or whose graph left its model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from onnxruntime.quantization import quantize_dynamic

from tierline_cloud.bundles import write_bundles
from tierline_cloud.export import BatchVarianceError, ParityError
from tierline_cloud.factory import Factory
from tierline_cloud.gates import require_publishable
from tierline_cloud.publishing import publish
from tierline_serving.bundle import Bundle, open_bundle, write_bundle
from tierline_serving.registry import Registry
from tierline_serving.signing import Trust


@pytest.fixture(scope="module")
def bundles(factory: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    now = datetime(2026, 11, 21, tzinfo=UTC)
    return write_bundles(factory, model="ranker", destination=folder, signer=None, now=now)


def _changed(bundle: Bundle, folder: Path, files: dict[str, Path], **manifest: object) -> Bundle:
    """The bundle again, with other files and manifest entries."""
    kept = {name: bundle.path / name for name in bundle.manifest.files}
    said = {**bundle.manifest.to_json(), **manifest}
    said.pop("certificate", None)
    return write_bundle({**kept, **files}, said, folder, None)


@pytest.fixture
def company(bundles: dict[str, Bundle], factory: Factory, tmp_path: Path) -> Bundle:
    """An edge bundle with ranges taken per call."""
    dynamic = tmp_path / "dynamic.onnx"
    quantize_dynamic(factory.exported.folder / "float32.onnx", dynamic)
    return _changed(bundles["edge"], tmp_path / "bundles", {"model.onnx": dynamic})


def test_what_the_factory_makes_may_be_published(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        require_publishable(bundle)


def test_a_graph_whose_answers_depend_on_the_company_is_not_published(
    company: Bundle, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    folders = {"edge": str(company.path), "cloud": str(bundles["cloud"].path)}
    with pytest.raises(BatchVarianceError, match="is not published: answers depend on who else"):
        publish(tmp_path / "registry", folders, None)
    # Neither of the two: the cloud's bundle is blameless, but belongs to the edge's.
    assert not Registry(tmp_path / "registry").list()


@pytest.mark.parametrize(
    ("parity", "what"),
    [
        ({"largest_difference": 2e-4, "same_top10": 1.0}, r"largest difference 2\.00e-04"),
        ({"largest_difference": 0.0, "same_top10": 0.99}, r"same top 10 for 99\.00%"),
        (None, "holds no metrics.parity"),
    ],
)
def test_an_export_without_parity_is_not_published(
    bundles: dict[str, Bundle], parity: dict[str, float] | None, what: str, tmp_path: Path
) -> None:
    edge = bundles["edge"]
    metrics = {name: value for name, value in edge.manifest.metrics.items() if name != "parity"}
    if parity is not None:
        metrics["parity"] = parity
    changed = _changed(edge, tmp_path, {}, metrics=metrics)
    with pytest.raises(ParityError, match=what):
        require_publishable(open_bundle(changed.path, Trust(allow_unsigned=True)))


def test_a_tensor_graph_without_golden_rows_is_not_published(
    bundles: dict[str, Bundle],
) -> None:
    edge = bundles["edge"]
    bare = replace(edge.manifest, kind="tensor", golden=None)
    with pytest.raises(BatchVarianceError, match="nothing shows"):
        require_publishable(replace(edge, manifest=bare))

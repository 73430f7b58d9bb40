"""What a verified bundle holds, as the factory's own objects."""

from __future__ import annotations

import numpy as np
from safetensors.torch import load

from tierline import BundleRefused
from tierline_cloud.export import Floats
from tierline_cloud.models.blend import CloudModel
from tierline_kernels import RowwiseInt8, dequantize_rows
from tierline_serving.bundle import Bundle
from tierline_serving.sequence_spec import SequenceSpec


def load_cloud(bundle: Bundle) -> CloudModel:
    """The torch model of a cloud bundle, in evaluation mode. Raises BundleRefused."""
    runtime = bundle.manifest.runtime
    try:
        return CloudModel.from_bundle(
            runtime.architecture, runtime.config or {}, load(bundle.model_bytes())
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise BundleRefused(f"bundle {bundle.path}: the model does not load: {error}") from error


def sequence_of(bundle: Bundle) -> SequenceSpec:
    """The catalogue and history of a bundle of kind sequence."""
    assert bundle.manifest.sequence is not None  # the manifest's reader saw to it
    return bundle.manifest.sequence


def item_table(bundle: Bundle) -> Floats:
    """The float32 item rows of an edge bundle. Raises BundleRefused when it has none."""
    name = sequence_of(bundle).table
    if name is None:
        raise BundleRefused(f"bundle {bundle.path}: an edge bundle needs an item table")
    table = bundle.table(name)
    if table.codes is None or table.scales is None:
        assert table.values is not None
        return table.values.astype(np.float32)
    return dequantize_rows(RowwiseInt8(table.codes, table.scales, table.biases))

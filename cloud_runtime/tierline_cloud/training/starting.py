"""Where fine-tuning begins: the weights of a bundle or a checkpoint, fitted to a new catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from tierline import ConfigurationError
from tierline_cloud.models.blend import PREFIX
from tierline_serving.bundle import open_bundle
from tierline_serving.signing import Trust

FIRST = "members.0."  # of an ensemble: the network that was trained on events alone
GROWING = ("table", "positions")  # rows may be added: of new items, of older positions


def read_weights(path: Path) -> dict[str, Tensor]:
    """The network's weights in a bundle's folder, a training checkpoint (those that validated best)
    or a plain safetensors file. Raises ConfigurationError and BundleRefused."""
    if path.is_dir():
        # Weights are data, never code, so who signed them does not matter here.
        bundle = open_bundle(path, Trust(allow_unsigned=True))
        if bundle.manifest.runtime.engine != "torch":
            raise ConfigurationError(
                f"--from {path}: an ONNX bundle cannot be trained further; give the cloud's bundle"
            )
        tensors = load(bundle.model_bytes())
    else:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(f"--from {path} cannot be read: {error}") from error
    for prefix in ("best.", "model.", FIRST):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            break
    return {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}


def fitted(found: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``found`` in the shapes of ``fresh``, whose values stay where the catalogue has grown (new
    items come last) or histories have (positions count from the end, so older ones come first).
    Raises ConfigurationError naming what else differs."""
    missing, extra = sorted(set(fresh) - set(found)), sorted(set(found) - set(fresh))
    if missing or extra:
        raise ConfigurationError(
            f"the weights are of another architecture: missing {missing or 'nothing'}, unknown "
            f"{extra or 'nothing'}; use the recipe they were trained with"
        )
    weights = {}
    for name, wanted in fresh.items():
        have = found[name]
        if have.shape == wanted.shape:
            weights[name] = have
            continue
        grows = name in GROWING and have.shape[1:] == wanted.shape[1:]
        if not grows or have.shape[0] > wanted.shape[0]:
            raise ConfigurationError(
                f"the weights do not fit: {name} is {list(have.shape)}, the recipe and data want "
                f"{list(wanted.shape)}; a catalogue may grow, but not shrink or be renumbered"
            )
        grown = wanted.clone()
        if name == "table":
            grown[: have.shape[0]] = have
        else:
            grown[wanted.shape[0] - have.shape[0] :] = have
        weights[name] = grown
    return weights

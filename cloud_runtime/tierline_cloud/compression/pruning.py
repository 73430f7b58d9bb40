"""Structured pruning: inner units that matter least are cut out, and what is left is smaller."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tierline_cloud.models.sasrec import Block, SASRec


def prune_inner(model: SASRec, share: float, ids: Tensor) -> SASRec:
    """The same model without ``share`` of each block's inner (ReLU) units. Those go that move the
    block's output least on the histories ``ids`` [users, L]: mean activation times the length of
    its outgoing weights (Li et al. 2017, with what was seen instead of the weights alone); their
    mean contribution stays, as a bias. Raises ValueError unless 0 < share < 1 leaves a unit."""
    config = model.config
    kept = round(config.inner_width * (1 - share))
    if not 0 < share < 1 or not 1 <= kept < config.inner_width:
        raise ValueError(f"pruning {share} of {config.inner_width} inner units leaves {kept}")
    activity = _mean_activity(model, ids)
    smaller = SASRec(replace(config, inner=kept))
    weights = dict(model.state_dict())
    for number, mean in enumerate(activity):
        block = model.blocks[number]
        assert isinstance(block, Block)
        matter = mean * block.narrow.weight.detach().norm(dim=0)
        order = torch.argsort(matter, descending=True, stable=True)
        stay, go = order[:kept].sort().values, order[kept:]
        at = f"blocks.{number}."
        missed = block.narrow.weight.detach()[:, go] @ mean[go]
        weights[at + "widen.weight"] = block.widen.weight.detach()[stay]
        weights[at + "widen.bias"] = block.widen.bias.detach()[stay]
        weights[at + "narrow.weight"] = block.narrow.weight.detach()[:, stay]
        weights[at + "narrow.bias"] = block.narrow.bias.detach() + missed
    smaller.load_state_dict(weights)
    return smaller.eval()


def _mean_activity(model: SASRec, ids: Tensor) -> list[Tensor]:
    """Per block, the mean of every inner unit after its ReLU, over the last positions asked."""
    seen: list[Tensor] = []

    def note(module: object, inputs: object, output: Tensor) -> None:
        seen.append(torch.relu(output).flatten(0, -2).mean(dim=0))

    blocks = [block for block in model.blocks if isinstance(block, Block)]
    hooks = [block.widen.register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            model.eval().hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen

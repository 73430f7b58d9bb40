"""Cross-entropy over the whole catalogue without ever holding all its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # positions at a time: 512 × 12,102 float32 logits are 25 MB


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Gradients are worked out in the forward pass, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        for start in range(0, states.shape[0], CHUNK):
            span = slice(start, start + CHUNK)
            rows = torch.arange(targets[span].shape[0])
            logits = states[span] @ table.T
            logits[:, 0] = -torch.inf  # padding is never an item
            log_norm = logits.logsumexp(dim=1, keepdim=True)
            total += (log_norm[:, 0] - logits[rows, targets[span]]).sum()
            slope = logits.sub_(log_norm).exp_()
            slope[rows, targets[span]] -= 1.0
            grad_states[span] = slope @ table
            grad_table.addmm_(slope.T, states[span])
        count = states.shape[0]
        ctx.save_for_backward(grad_states.div_(count), grad_table.div_(count))
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_table = ctx.saved_tensors
        return grad_states * grads[0], grad_table * grads[0], None


def catalogue_cross_entropy(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean exact softmax cross-entropy of targets int64 [N] (1..n_items) given states [N, d] and
    item rows [n_items + 1, d]; row 0 takes no part."""
    loss: Tensor = _CatalogueCrossEntropy.apply(states, table, targets)  # type: ignore[no-untyped-call]
    return loss

"""Cross-entropy over the whole catalogue without ever holding all its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 3 * 2**19  # 6 MB of float32 at a time, which a cache holds


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Gradients are worked out in the forward pass, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        step = min(max(1, CHUNK_LOGITS // table.shape[0]), states.shape[0])  # positions
        buffer = states.new_empty(step, table.shape[0])
        for start in range(0, states.shape[0], step):
            chunk, wanted = states[start : start + step], targets[start : start + step]
            logits = torch.mm(chunk, table.T, out=buffer[: wanted.shape[0]])
            logits[:, 0] = -torch.inf  # padding is never an item
            own = logits.gather(1, wanted[:, None])
            highest = logits.amax(dim=1, keepdim=True)
            weights = logits.sub_(highest).exp_()  # softmax, but for a factor a row
            norm = weights.sum(dim=1, keepdim=True)
            total += (norm.log() + highest - own).sum()
            # That factor goes into the narrow matrices: the wide one is not written again.
            slope = torch.mm(weights, table, out=grad_states[start : start + step])
            slope.div_(norm).sub_(table[wanted])
            grad_table.addmm_(weights.T, chunk / norm)
            grad_table.index_add_(0, wanted, chunk, alpha=-1.0)
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


class _ListwiseCrossEntropy(torch.autograd.Function):
    """As above, for a distribution over a few items in place of one target, and with products of
    another precision, which the states and rows come in."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, ids: Tensor, wanted: Tensor, seen: Tensor,
        products: torch.dtype,
    ) -> Tensor:  # fmt: skip
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        step = min(max(1, CHUNK_LOGITS // table.shape[0]), states.shape[0])
        narrow, rows = states.to(products), table.to(products)
        buffer = rows.new_empty(step, table.shape[0])
        for start in range(0, states.shape[0], step):
            part = slice(start, start + step)
            chunk, shares = states[part], wanted[part]
            logits = torch.mm(narrow[part], rows.T, out=buffer[: chunk.shape[0]])
            own = (logits.gather(1, ids[part]) * shares).sum(dim=1, keepdim=True)
            logits.scatter_(1, seen[part], -torch.inf)  # column 0, padding, is always among them
            highest = logits.amax(dim=1, keepdim=True)
            weights = logits.sub_(highest).exp_()
            norm = weights.sum(dim=1, keepdim=True, dtype=torch.float32)
            total += (norm.log() + highest - own).sum()
            weights.scatter_add_(1, ids[part], (-shares * norm).to(products))
            grad_states[part] = torch.mm(weights, rows).div_(norm)
            grad_table += torch.mm(weights.T, (chunk / norm).to(products))
        count = states.shape[0]
        ctx.save_for_backward(grad_states.div_(count), grad_table.div_(count))
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_states, grad_table = ctx.saved_tensors
        return grad_states * grads[0], grad_table * grads[0], None, None, None, None


def listwise_cross_entropy(
    states: Tensor,
    table: Tensor,
    ids: Tensor,
    wanted: Tensor,
    seen: Tensor,
    *,
    products: torch.dtype = torch.float32,
) -> Tensor:
    """Mean exact cross-entropy of distributions given states [N, d] and item rows [n_items + 1, d]:
    row n wants the items ``ids`` int64 [N, H] with the shares ``wanted`` [N, H], which sum to 1;
    the softmax is over all items but those of ``seen`` int64 [N, S], padding (0) among them. An
    item both wanted and seen must have a share of 0. ``products`` is the precision of the matrix
    products and logits; sums stay in float32."""
    loss: Tensor = _ListwiseCrossEntropy.apply(states, table, ids, wanted, seen, products)  # type: ignore[no-untyped-call]
    return loss

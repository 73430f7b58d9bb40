"""The edge model: a small network that also says how far its list may be from the cloud's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tierline_cloud.models.network import Network

HEAD_WIDTH = 16
SHAPE_FEATURES = 4  # what the head is told besides the hidden state
_TINY = 1e-6


class UncertaintyHead(nn.Module):
    """hidden [B, d] and four features of the history → uncertainty [B] in (0, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = dim + SHAPE_FEATURES
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.first, self.second = nn.Linear(width, HEAD_WIDTH), nn.Linear(HEAD_WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.spread, Tensor)
        inner = torch.relu(self.first((features - self.mean) / self.spread))
        return torch.sigmoid(self.second(inner)[:, 0])

    def standardise(self, features: Tensor) -> None:
        """Take mean and spread from the features of the training users."""
        self.mean = features.mean(dim=0)
        self.spread = features.std(dim=0).clamp_min(_TINY)


class EdgeModel(nn.Module):
    """What goes into the edge bundle's ONNX file; the item table stays outside."""

    def __init__(self, sasrec: Network) -> None:
        super().__init__()
        self.sasrec = sasrec
        self.head = UncertaintyHead(sasrec.config.dim)

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """embedded [B, L, d], mask [B, L] → hidden [B, d], uncertainty [B]."""
        hidden = self.sasrec.encode(embedded, mask)
        return hidden, self.head(head_features(embedded, mask, hidden))


def head_features(embedded: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
    """[B, d + 4]: the state; history length; the state's length; how well the whole history and
    its last item agree with the state."""
    length = mask.sum(dim=1, keepdim=True)
    norm = (hidden * hidden).sum(dim=1, keepdim=True).add(_TINY).sqrt()
    item_norms = (embedded * embedded).sum(dim=2).add(_TINY).sqrt()
    cosines = (embedded * hidden[:, None, :]).sum(dim=2) / (item_norms * norm)
    mean = (cosines * mask).sum(dim=1, keepdim=True) / (length + _TINY)
    return torch.cat((hidden, torch.log1p(length), norm, mean, cosines[:, -1:]), dim=1)

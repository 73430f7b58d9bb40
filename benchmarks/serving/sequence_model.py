"""W2's torch model, written as two graphs: the encoder alone, and ids to scores in one."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from workloads import BLOCKS, CANDIDATES, DIM, HEADS, HISTORY, ITEMS, OPSET, SEED


class Block(nn.Module):
    """Causal attention and a ReLU layer, both with what went in added."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.query, self.key, self.value, self.output = (nn.Linear(DIM, DIM) for _ in range(4))
        self.widen, self.narrow = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, d], bias [B, 1, L, L] → [B, L, d]."""
        normed = self.before(x)
        query, key, value = (
            part.reshape(-1, HISTORY, HEADS, DIM // HEADS).transpose(1, 2)
            for part in (self.query(normed), self.key(normed), self.value(normed))
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(DIM // HEADS) + bias, -1)
        x = x + self.output((weights @ value).transpose(1, 2).reshape(-1, HISTORY, DIM))
        inner = self.between(x)
        result: Tensor = x + self.narrow(functional.relu(self.widen(inner)))
        return result


class Encoder(nn.Module):
    """embedded [B, L, d] and mask [B, L] → hidden [B, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(HISTORY, DIM) * 0.1)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last = nn.LayerNorm(DIM)
        self.register_buffer("causal", torch.triu(torch.full((HISTORY, HISTORY), -1e9), 1))

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """The state after the last item."""
        bias = self.causal + (1.0 - mask)[:, None, None, :] * -1e9
        x = embedded + self.positions
        for block in self.blocks:
            x = block(x, bias)
        result: Tensor = self.last(x[:, -1])
        return result


class Whole(nn.Module):
    """history int64 [B, L] and id int64 [B, N] → scores [B, N]."""

    def __init__(self, encoder: Encoder, table: Tensor) -> None:
        super().__init__()
        self.encoder, self.table = encoder, nn.Parameter(table)

    def forward(self, history: Tensor, id: Tensor) -> Tensor:
        """The inner products of the state with the candidates' rows."""
        hidden = self.encoder(self.table[history], (history > 0).float())
        return (self.table[id] @ hidden[:, :, None])[:, :, 0]


def write_graphs(encoder_path: Path, whole_path: Path, table_path: Path) -> None:
    """Write both graphs and the item table, float32 [ITEMS + 1, DIM]."""
    torch.manual_seed(SEED)
    encoder = Encoder().eval()
    table = torch.randn(ITEMS + 1, DIM)
    table[0] = 0.0
    np.save(table_path, table.numpy(), allow_pickle=False)
    requests = torch.export.Dim("requests")
    embedded, mask = torch.zeros(2, HISTORY, DIM), torch.ones(2, HISTORY)
    _export(encoder, {"embedded": embedded, "mask": mask}, "hidden", encoder_path, requests)
    history = torch.ones(2, HISTORY, dtype=torch.int64)
    ids = torch.ones(2, CANDIDATES, dtype=torch.int64)
    whole = Whole(encoder, table).eval()
    _export(whole, {"history": history, "id": ids}, "scores", whole_path, requests)


def _export(
    module: nn.Module,
    example: Mapping[str, Tensor],
    output: str,
    path: Path,
    requests: torch.export.Dim,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own internals
        torch.onnx.export(
            module,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes={name: {0: requests} for name in example},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )

"""The linear attention that the benchmark times is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

import attention


@pytest.mark.parametrize("length", [1, attention.CHUNK, 2 * attention.CHUNK + 22])
def test_in_chunks_it_is_the_causal_kernel_average(length: int) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(2, length, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    features = [functional.elu(part) + 1 for part in (query, key)]
    weights = (features[0] @ features[1].transpose(1, 2)).tril()
    expected = (weights @ value) / weights.sum(2, keepdim=True)
    torch.testing.assert_close(attention.linear(query, key, value), expected)

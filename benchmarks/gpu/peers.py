"""The same operations by torch and JAX on the same device, where they are installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np

from tierline_kernels.layout import RowwiseInt8, dequantize_rows

REPEATS = 30


def torch_times(needs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Microseconds of device time by name; empty without torch and a device it can use."""
    if find_spec("torch") is None:
        return {}
    torch: Any = import_module("torch")
    if not torch.cuda.is_available():
        return {}
    with torch.inference_mode():
        calls: dict[str, Callable[[], Any]] = {}
        for what, data in needs.items():
            calls |= _TORCH[what](torch, **data)
        return {name: _events(torch, call) for name, call in calls.items()}


def _events(torch: Any, call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for before, after in pairs:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    return median(before.elapsed_time(after) * 1e3 for before, after in pairs)


def _bag(torch: Any, table: Any, ids: Any, offsets: Any, kind: str) -> dict[str, Any]:
    flat, starts = (torch.from_numpy(np.ascontiguousarray(a)).cuda() for a in (ids, offsets[:-1]))
    if isinstance(table, RowwiseInt8):
        rows = torch.from_numpy(dequantize_rows(RowwiseInt8(table.codes[:1], table.scales[:1])))
        del rows
        packed = torch.empty((len(table.codes), table.codes.shape[1] + 8), dtype=torch.uint8)
        packed.random_(0, 100)
        codes = packed.cuda()
        call = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
        return {"torch int8": lambda: call(codes, flat, starts, False, 0, False, None, None, False)}
    weights = torch.from_numpy(table).cuda()
    bag = torch.nn.functional.embedding_bag
    return {
        "torch": lambda: bag(flat, weights, starts, mode="sum"),
        "index_select": lambda: torch.index_select(weights, 0, flat),
    }


def _topk(torch: Any, x: Any, k: int) -> dict[str, Any]:
    device = torch.from_numpy(x).cuda()
    return {"torch": lambda: torch.topk(device, k)}


def _retrieve(torch: Any, items: RowwiseInt8, queries: Any, k: int) -> dict[str, Any]:
    rows = torch.empty(items.shape, dtype=torch.bfloat16, device="cuda")
    for low in range(0, len(rows), 1_000_000):
        part = torch.from_numpy(items.codes[low : low + 1_000_000].copy()).cuda()
        rows[low : low + len(part)] = part
    vectors = torch.from_numpy(queries).cuda().bfloat16()
    return {"torch bf16": lambda: torch.topk(vectors @ rows.T, k)}


_TORCH = {"bag": _bag, "topk": _topk, "retrieve": _retrieve}


def jax_times(needs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Microseconds a call, waited for, by name; empty without JAX and a device it can use."""
    if find_spec("jax") is None or "topk" not in needs:
        return {}
    jax: Any = import_module("jax")
    if jax.default_backend() != "gpu":
        return {}
    x, k = jax.device_put(needs["topk"]["x"]), needs["topk"]["k"]
    calls = {
        "jax top_k": jax.jit(lambda rows: jax.lax.top_k(rows, k)),
        "jax approx_max_k": jax.jit(lambda rows: jax.lax.approx_max_k(rows, k)),
    }
    found = {}
    for name, call in calls.items():
        jax.block_until_ready(call(x))
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            jax.block_until_ready(call(x))
            taken.append((time.perf_counter() - started) * 1e6)
        found[name] = median(taken)
    return found

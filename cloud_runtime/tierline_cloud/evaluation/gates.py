"""Gates to compare the uncertainty head with: what the textbooks escalate by, and chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Sequences
from tierline_cloud.evaluation.agreement import agreement_loss, spearman
from tierline_cloud.evaluation.curves import (
    EscalationCurve,
    cheapest_escalation,
    escalation_curve,
)
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.evaluation.ranking import CHUNK, Ranking, ScoreUsers, mask_seen

Floats = NDArray[np.float64]

K, HEAD = 10, 50  # the list that is served, and what of it a gate may look at
OURS = "uncertainty head"
RANDOM = "random"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One way to choose whom to escalate: rank correlation with the loss, area under the escalation
    curve against chance, the loss left at a fifth escalated, and the share to escalate for 99 % of
    the cloud's NDCG@10."""

    name: str
    spearman: float
    area_over_random: float
    loss_at_20: float
    escalation_at_99: float


def list_signals(scores: ScoreUsers, histories: Sequences) -> dict[str, Floats]:
    """What the edge's scores alone say, higher meaning less certain, one value a user:

    ``margin at 10`` is −(s₁₀ − s₁₁)/sd, ``margin at 1`` −(s₁ − s₂)/sd with sd that of the first
    fifty, ``entropy`` that of a softmax over them, ``top score`` −s₁, and ``history`` its length.
    """
    found: dict[str, list[Floats]] = {}
    for start in range(0, len(histories), CHUNK):
        users = np.arange(start, min(start + CHUNK, len(histories)))
        block = np.array(scores(users), np.float32)
        mask_seen(block, histories, users)
        kept = min(HEAD, block.shape[1] - 1)
        best = torch.from_numpy(block).topk(kept, dim=1).values.double().numpy()
        best = np.where(np.isfinite(best), best, best[:, :1] - 50.0)
        spread = best.std(axis=1) + 1e-12
        shares = np.exp(best - best[:, :1])
        shares /= shares.sum(axis=1, keepdims=True)
        at = min(K, kept - 1)
        parts = {
            "margin at 10": (best[:, at] - best[:, at - 1]) / spread,
            "margin at 1": (best[:, 1] - best[:, 0]) / spread,
            "entropy": -(shares * np.log(shares + 1e-300)).sum(axis=1),
            "top score": -best[:, 0],
        }
        for name, values in parts.items():
            found.setdefault(name, []).append(values)
    signals = {name: np.concatenate(values) for name, values in found.items()}
    return {**signals, "history": histories.lengths.astype(np.float64)}


def compare_gates(
    edge: Ranking, cloud: Ranking, uncertainty: Floats, signals: dict[str, Floats], *, seed: int = 0
) -> tuple[list[Gate], dict[str, EscalationCurve]]:
    """Every gate on the same users, and the curves of some for a plot."""
    losses = agreement_loss(edge.top, cloud.top)
    fast, full = ndcg(edge.ranks, K), ndcg(cloud.ranks, K)
    chance = np.random.default_rng(seed).random(losses.size)
    gates = {OURS: uncertainty, **signals, RANDOM: chance, ORACLE: losses}
    curves = {name: escalation_curve(losses, gate) for name, gate in gates.items()}
    rows = [
        Gate(
            name=name,
            spearman=spearman(gate, losses),
            area_over_random=curves[name].area_over_random(),
            loss_at_20=curves[name].at(0.2),
            escalation_at_99=cheapest_escalation(fast, full, gate, retention=0.99),
        )
        for name, gate in gates.items()
    ]
    return rows, curves


def gates_document(rows: list[Gate]) -> list[dict[str, object]]:
    """As plain values."""
    return [asdict(row) for row in rows]

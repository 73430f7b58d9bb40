"""How much each of the cloud's experts has to say: what ranks best on the validation slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tierline_cloud.data.sequences import Ids, Sequences
from tierline_cloud.evaluation.metrics import ndcg
from tierline_cloud.evaluation.ranking import CHUNK, factor_scores, mask_seen, target_ranks
from tierline_cloud.models.blend import WEIGHTS, Neighbours
from tierline_cloud.models.sasrec import SASRec
from tierline_cloud.training.loop import hidden_states

SHARES = {1: ((1.0,),), 2: ((0.75, 0.25), (0.5, 0.5), (0.25, 0.75))}  # by networks; sums are 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The networks' shares of their common score, the neighbours' weight, and the NDCG@10."""

    shares: tuple[float, ...]
    weight: float
    score: float


def mixtures(
    networks: Sequence[SASRec], neighbours: Neighbours, histories: Sequences, targets: Ids
) -> list[Mixture]:
    """All that were tried on one slot: every expert is asked once, whatever the combinations.
    ``neighbours`` have a weight of 1."""
    tried = list(product(SHARES[len(networks)], WEIGHTS))
    experts = [
        factor_scores(hidden_states(network, histories), network.table.detach().numpy())
        for network in networks
    ]
    ranks = np.empty((len(tried), len(histories)), np.int64)
    for start in range(0, len(histories), CHUNK):
        users = np.arange(start, min(start + CHUNK, len(histories)))
        scores = [expert(users) for expert in experts]
        near = neighbours.boosts(histories, users)
        for row, (shares, weight) in enumerate(tried):
            block: NDArray[np.float32] = near * np.float32(weight)
            for share, score in zip(shares, scores, strict=True):
                block += np.float32(share) * score
            mask_seen(block, histories, users)
            ranks[row, users] = target_ranks(block, targets[users])
    return [
        Mixture(shares=shares, weight=weight, score=float(ndcg(ranks[row], 10).mean()))
        for row, (shares, weight) in enumerate(tried)
    ]

"""What both clients share: options in, requests built, priors kept. No waiting."""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tierline._channels import ModelDescription, Outgoing
from tierline._config import (
    DEFAULT_DEADLINE,
    Balancing,
    BreakerPolicy,
    ClientConfig,
    Criticality,
    EjectionPolicy,
    EscalationPolicy,
    HealthPolicy,
    HedgePolicy,
    LimiterPolicy,
    Mode,
    RetryPolicy,
    Sovereignty,
    TimeoutPolicy,
    simple_tiers,
)
from tierline._core.call import ScoreCall
from tierline._core.certified import Shadow
from tierline._core.errands import post_clouds
from tierline._core.fallback import Prior
from tierline._core.findings import checked
from tierline._core.fleet import Fleet
from tierline._core.probing import Prober
from tierline._core.shadow_call import ShadowCall
from tierline._exceptions import BadRequest, ConfigurationError
from tierline._golden import read_golden
from tierline._toml import read_config
from tierline._types import EscalationReport
from tierline.wire import CANDIDATE_IDS, ScoreRequest

Query = Mapping[str, ArrayLike]
Candidates = ArrayLike | Mapping[str, ArrayLike]

_CRITICALITIES: dict[str, Criticality] = {kind.value: kind for kind in Criticality}
_MODES: dict[str, Mode] = {mode.value: mode for mode in Mode}
_BALANCINGS: dict[str, Balancing] = {way.value: way for way in Balancing}
KEYED_BYTES = 4096  # queries up to this size are their own key; hashing larger ones costs too much


class BaseClient(ABC):
    """Configuration, fleet and request building; the two clients add the waiting."""

    # The one clock of a client, in monotonic seconds; the simulator puts its own here.
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(
        self,
        *,
        edge: Sequence[str] = (),
        cloud: Sequence[str] = (),
        deadline: float = DEFAULT_DEADLINE,
        balancing: Balancing | str = Balancing.LEAST_LOADED,
        retry: RetryPolicy | None = None,
        hedge: HedgePolicy | None = None,
        timeout: TimeoutPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        ejection: EjectionPolicy | None = None,
        limiter: LimiterPolicy | None = None,
        health: HealthPolicy | None = None,
        escalation: EscalationPolicy | None = None,
        sovereignty: Sovereignty | None = None,
        transport: Literal["lean", "httpx"] = "lean",
        priors: Mapping[str, str | os.PathLike[str]] | None = None,
        api_key: str | None = None,
        allow_unsigned: bool = False,
        config: ClientConfig | None = None,
    ) -> None:
        """``edge`` and ``cloud`` are addresses (``http(s)://``, ``unix://``, ``embedded:PATH``).
        ``config`` says everything instead. Raises ConfigurationError."""
        self.config = config or ClientConfig(
            tiers=simple_tiers(edge, cloud, _way(balancing)),
            deadline=deadline,
            transport=transport,
            retry=retry or RetryPolicy(),
            hedge=hedge,
            timeout=timeout or TimeoutPolicy(),
            breaker=breaker or BreakerPolicy(),
            ejection=ejection or EjectionPolicy(),
            limiter=limiter or LimiterPolicy(),
            health=health,
            escalation=escalation or EscalationPolicy(),
            sovereignty=sovereignty or Sovereignty(),
            priors={model: Path(place) for model, place in (priors or {}).items()},
            api_key=api_key,
            allow_unsigned=allow_unsigned,
        )
        self._fleet = Fleet(checked(self.config))
        self._fleet.priors |= {m: _read_prior(m, p) for m, p in self.config.priors.items()}
        if self.config.health is not None:
            golden = self.config.health.golden
            known = read_golden(golden) if golden is not None else []
            self._fleet.prober = Prober(self._fleet, self.config.health, known)
        self._dice = random.Random()
        self._pid = os.getpid()
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Make ready what waits: the channels to every endpoint."""

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """A client configured by one TOML file. Raises ConfigurationError naming the key."""
        return cls(config=read_config(path))

    def _call(
        self,
        model: str,
        query: Query,
        candidates: Candidates | None,
        k: int | None,
        deadline: float | None,
        key: str | None,
        mode: Mode | str,
        version: str | None,
        traceparent: str | None,
        sovereignty: Sovereignty | None,
        criticality: Criticality | str,
    ) -> tuple[ScoreCall, Outgoing]:
        span = self.config.deadline if deadline is None else deadline
        if criticality not in _CRITICALITIES:
            raise BadRequest(f"criticality must be one of {[*_CRITICALITIES]}, got {criticality!r}")
        if mode not in _MODES:
            raise BadRequest(f"mode must be one of {[*_MODES]}, got {mode!r}")
        if not 0 < span < math.inf:
            raise BadRequest(f"deadline must be a positive number of seconds, got {deadline!r}")
        request = ScoreRequest(
            model=model,
            query=_arrays(query, "query"),
            candidates=None if candidates is None else _candidates(candidates),
            k=k,
            version=version,
        )
        if os.getpid() != self._pid:  # a forked child must not roll its parent's dice
            self._pid = os.getpid()
            self._dice.seed()
            self._forked()
        call_id = f"{self._dice.getrandbits(64):016x}"
        call = ScoreCall(
            request,
            self._fleet,
            deadline=self._clock() + span,
            mode=_MODES[mode],
            key=key if key is not None else _query_key(request),
            call_id=call_id,
            dice=self._dice,
            sovereignty=sovereignty,
            criticality=_CRITICALITIES[criticality],
        )
        return call, Outgoing(request, call_id, traceparent, _CRITICALITIES[criticality])

    def amplification(self) -> float:
        """Attempts ÷ what was asked of the tiers, over the last ten seconds: 1.0 is none wasted,
        and above 1.1 for long something keeps failing."""
        return self._fleet.amplification(self._clock())

    def escalation(self, model: str) -> EscalationReport | None:
        """How the escalations of a model stand: threshold, shares, certificate, alarm; None before
        an edge has answered for it, and without both tiers. For dashboards: not part of a call."""
        known = self._fleet.controls.get(model)
        return None if known is None or known.current is None else known.current.report()

    def _forked(self) -> None:
        """This process is a fork of the one the client was made in."""
        self._fleet.forget_inflight()

    def _askable(self) -> list[str]:
        """The endpoints the data policy lets anything be asked of, each once."""
        return list(dict.fromkeys(e.url for t in self._fleet.permitted for e in t.endpoints))

    def _learn(
        self, model: str, url: str, description: ModelDescription, prior: Prior | None
    ) -> None:
        """Take what an endpoint said of a model: its prior, and a certificate if it has one."""
        fleet, bundle = self._fleet, str(description.get("bundle"))
        if prior is not None:
            fleet.priors[model] = prior
        if not fleet.is_paired:
            return
        control = fleet.control(model)
        if any(e.url == url for tier in fleet.tiers if tier.is_edge for e in tier.endpoints):
            control.edge_described(bundle, description)
            post_clouds(fleet, model)
        else:
            control.cloud_answered(url, bundle)

    def _shadow_call(self, shadow: Shadow) -> tuple[ShadowCall, Outgoing]:
        """The call that shows a kept one to the cloud, under an id and a deadline of its own."""
        call_id = f"{self._dice.getrandbits(64):016x}"
        until = self._clock() + self.config.deadline
        call = ShadowCall.of(shadow, self._fleet, deadline=until, call_id=call_id, dice=self._dice)
        return call, Outgoing(shadow.request, call_id, None, Criticality.SHEDDABLE)


def _way(balancing: Balancing | str) -> Balancing:
    if balancing not in _BALANCINGS:
        message = f"must be one of {[*_BALANCINGS]}, got {balancing!r}"
        raise ConfigurationError(message, key="balancing")
    return _BALANCINGS[balancing]


def _arrays(named: Mapping[str, ArrayLike], what: str) -> dict[str, NDArray[np.generic]]:
    if type(named) is not dict and not isinstance(named, Mapping):
        raise BadRequest(f"{what} must map names to arrays, got {type(named).__name__}")
    return {
        name: value if type(value) is np.ndarray else _array(value, f"{what}[{name!r}]")
        for name, value in named.items()
    }


def _array(value: ArrayLike, what: str) -> NDArray[np.generic]:
    """Arrays travel as they are; plain Python numbers become int64 or float32, a text its UTF-8
    bytes, uint8."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        try:
            return np.frombuffer(value.encode("utf-8"), np.uint8)
        except UnicodeEncodeError as error:
            raise BadRequest(f"{what} is no valid Unicode: {error.reason}") from error
    array: NDArray[Any] = np.asarray(value)
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "biuf":
        raise BadRequest(f"{what} must hold numbers, got {array.dtype}")
    return array


def _candidates(candidates: Candidates) -> dict[str, NDArray[np.generic]]:
    if type(candidates) is dict or isinstance(candidates, Mapping):
        named = _arrays(candidates, "candidates")
    else:
        ids = _array(candidates, "candidates")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise BadRequest("candidates must be item ids, or map names to arrays of features")
        named = {CANDIDATE_IDS: ids.astype(np.int64, copy=False)}
    if not named:
        raise BadRequest("there are no candidates: give item ids, or arrays of features by name")
    lengths = {array.shape[0] if array.ndim else 0 for array in named.values()}
    if len(lengths) != 1:
        raise BadRequest(f"every candidates array needs the same first axis, got {lengths}")
    return named


def _query_key(request: ScoreRequest) -> str | None:
    """The key of a call that names none: its query, when it is about items and small."""
    if request.candidates is not None and CANDIDATE_IDS not in request.candidates:
        return None
    if sum(array.nbytes for array in request.query.values()) > KEYED_BYTES:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name, array in request.query.items():
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read_prior(model: str, place: Path) -> Prior:
    file = place / "prior.npy" if place.is_dir() else place
    key = f"priors.{model}"
    try:
        scores = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as bad:
        raise ConfigurationError(f"{file} is not a readable .npy file: {bad}", key=key) from bad
    if scores.ndim != 1 or scores.dtype != np.float32:
        raise ConfigurationError(f"{file} must hold float32[n_items + 1]", key=key)
    return Prior(place.name, scores)

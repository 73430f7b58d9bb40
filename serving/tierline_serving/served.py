"""What a process serves now: which bundle of each model answers, and which others may be named.

The pointer is one value, replaced in one step. A call holds the generation it began with, so that
a bundle taken out of service is closed when the last call that holds it ended. Used on one loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Final

from tierline import BadRequest, ModelNotFound
from tierline.wire import ScoreReply
from tierline_serving.batching import Runner
from tierline_serving.scorer import ModelInfo
from tierline_serving.versions import LABEL_PREFIX, version_of

_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


class Generation:
    """One loaded bundle: its runner, its popularity prior, and how many calls hold it.

    ``with generation as runner`` is one call's hold on it.
    """

    __slots__ = ("_released", "calls", "prior", "runner")

    def __init__(self, runner: Runner, prior: ScoreReply | None = None) -> None:
        self.runner = runner
        self.prior = prior
        self.calls = 0
        self._released: asyncio.Event | None = None

    def __enter__(self) -> Runner:
        self.calls += 1
        return self.runner

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.calls -= 1
        if self._released is not None and not self.calls:
            self._released.set()

    @property
    def info(self) -> ModelInfo:
        return self.runner.scorer.info

    @property
    def bundle(self) -> str:
        """The id of the bundle it serves."""
        return self.runner.scorer.info.bundle

    async def released(self) -> None:
        """Wait until no call holds it. Ask once it is out of service: nobody new may come."""
        self._released = asyncio.Event()
        if self.calls:
            await self._released.wait()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model's generations: the one that answers, every loaded one by bundle id, the labels,
    and the bundle a roll-back returns to. A change is a new Line; an illegal one raises BadRequest
    and there is none. Pure."""

    now: Generation
    loaded: Mapping[str, Generation]
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    before: str | None = None

    def __post_init__(self) -> None:
        if self.loaded.get(self.now.bundle) is not self.now:
            raise BadRequest(f"bundle {self.now.bundle} cannot answer: it is not loaded")
        if self.before is not None and self.before not in self.loaded:
            raise BadRequest(f"bundle {self.before} cannot be returned to: it is not loaded")
        for label, bundle in self.labels.items():
            if bundle not in self.loaded:
                raise BadRequest(
                    f"label {label!r} cannot move to {bundle}, which is not loaded; load it first"
                )

    @classmethod
    def of(cls, generation: Generation) -> Line:
        """The line of a model with one generation."""
        return cls(now=generation, loaded={generation.bundle: generation})

    def find(self, version: str | None) -> Generation | None:
        """The generation a version names: a bundle id, the part of one before its ``@`` (the one
        that answers first, then the one loaded last), or ``label:`` and a label. None: no such."""
        if version is None:
            return self.now
        if version.startswith(LABEL_PREFIX):
            bundle = self.labels.get(version.removeprefix(LABEL_PREFIX))
            return None if bundle is None else self.loaded[bundle]
        exact = self.loaded.get(version)
        if exact is not None:
            return exact
        if version_of(self.now.bundle) == version:
            return self.now
        same = [each for each in self.loaded.values() if version_of(each.bundle) == version]
        return same[-1] if same else None

    def rolled_back(self) -> Line:
        """The line with the bundle before answering again; a second time returns. Labels that
        named the bundle left move along. Raises BadRequest when none is kept."""
        if self.before is None:
            raise BadRequest("no earlier bundle is kept in memory; promote one and load it instead")
        left = self.now.bundle
        labels = {
            label: self.before if bundle == left else bundle
            for label, bundle in self.labels.items()
        }
        return replace(self, now=self.loaded[self.before], before=left, labels=labels)

    def labelled(self, label: str, version: str) -> Line:
        """The line with a label on a loaded bundle. Raises BadRequest when it is not loaded."""
        found = self.find(version)
        bundle = version if found is None else found.bundle
        return replace(self, labels={**self.labels, label: bundle})

    def without_before(self) -> Line:
        """The line that keeps nothing for a roll-back but what a label names."""
        kept = {self.now.bundle, *self.labels.values()}
        loaded = {bundle: each for bundle, each in self.loaded.items() if bundle in kept}
        return replace(self, loaded=loaded, before=None)


class Served:
    """The lines of every model, by name."""

    def __init__(self, lines: Mapping[str, Line] | None = None) -> None:
        self._lines = dict(lines or {})

    @classmethod
    def of(
        cls, runners: Mapping[str, Runner], priors: Mapping[str, ScoreReply | None] | None = None
    ) -> Served:
        """One generation a model."""
        known = priors or {}
        lines = {name: Line.of(Generation(run, known.get(name))) for name, run in runners.items()}
        return cls(lines)

    def line(self, model: str) -> Line | None:
        """A model's line; None when nothing of it is loaded."""
        return self._lines.get(model)

    def move(self, model: str, line: Line | None) -> list[Generation]:
        """Replace a model's line (None: serve it no more) in one step; what left service."""
        old = self._lines.get(model)
        if line is None:
            self._lines.pop(model, None)
        else:
            self._lines[model] = line
        stay = set() if line is None else set(line.loaded.values())
        return [] if old is None else [each for each in old.loaded.values() if each not in stay]

    def find(self, model: str, version: str | None = None) -> Generation:
        """The generation a request asks for. Raises ModelNotFound, naming what there is."""
        line = self._lines.get(model)
        if line is None:
            known = ", ".join(sorted(self._lines)) or "none"
            raise ModelNotFound(f"there is no model {model!r} here; models: {known}")
        found = line.now if version is None else line.find(version)
        if found is None:
            there = ", ".join([line.now.bundle, *(b for b in line.loaded if b != line.now.bundle)])
            raise ModelNotFound(
                f"model {model!r} is served here as {there}, not in the pinned version {version}"
            )
        return found

    def answering(self) -> list[Generation]:
        """The generation that answers for each model."""
        return [line.now for line in self._lines.values()]

    def __iter__(self) -> Iterator[Generation]:
        """Every loaded generation, those that answer first."""
        yield from self.answering()
        for line in self._lines.values():
            yield from (each for each in line.loaded.values() if each is not line.now)

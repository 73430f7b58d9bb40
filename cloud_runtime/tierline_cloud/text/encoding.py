"""From a text to its vectors: one for the whole text, and one for each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tierline import MissingExtra
from tierline_cloud.text.encoder import Encoder

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOGETHER: Final = 32  # texts of one length that are encoded at a time; more gain nothing on a CPU
POOLINGS: Final = ("mean", "cls")
_SMALLEST: Final = 1e-12  # what sentence-transformers' normalisation divides by at least

Floats = NDArray[np.float32]


class Role(Enum):
    """What a text is: some models want another prompt before each."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """How texts are prepared and pooled. ``max_tokens`` counts special ones; the rest of a longer
    text is not read. Raises ValueError."""

    pooling: str
    max_tokens: int
    lower: bool = False
    query_prompt: str = ""
    document_prompt: str = ""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if type(self.max_tokens) is not int or self.max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3, got {self.max_tokens!r}")
        if not isinstance(self.lower, bool):
            raise ValueError(f"lower must be true or false, got {self.lower!r}")
        for name in ("query_prompt", "document_prompt"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text")

    def to_json(self) -> dict[str, object]:
        """As a manifest's ``runtime.config`` holds it."""
        return asdict(self)


class Encoded(NamedTuple):
    """A text's vectors, each of length 1: ``vector`` float32 [d] for the whole, ``tokens`` float32
    [t, d] for its t ≥ 1 tokens. ``is_cut``: the text was longer than is read."""

    vector: Floats
    tokens: Floats
    is_cut: bool


class TextEncoder:
    """Tokenizer, network and pooling of one model."""

    def __init__(self, network: Encoder, tokenizer: Tokenizer, settings: TextSettings) -> None:
        """Raises ValueError when more tokens are to be read than the network has positions."""
        if settings.max_tokens > network.config.positions:
            raise ValueError(
                f"max_tokens {settings.max_tokens} is more than the {network.config.positions} "
                "positions the network has"
            )
        self.network = network
        self.tokenizer = tokenizer
        self.settings = settings
        self.dim = network.config.dim
        tokenizer.no_padding()
        tokenizer.enable_truncation(settings.max_tokens)

    @property
    def bytes(self) -> int:
        """What the network's weights take."""
        return sum(part.nbytes for part in self.network.state_dict().values())

    def encode(self, text: str, role: Role) -> Encoded:
        """One text's vectors, the same whatever else is encoded."""
        return self.encode_all([text], role)[0]

    def encode_all(self, texts: Sequence[str], role: Role) -> list[Encoded]:
        """Every text's vectors, in order: texts of equal length together, which may move a last
        bit against ``encode``."""
        prompt = self.settings.query_prompt if role is Role.QUERY else self.settings.document_prompt
        lower = self.settings.lower
        # One by one: a batch would start a thread for every core, whatever --threads says.
        read = [self.tokenizer.encode(prompt + (text.lower() if lower else text)) for text in texts]
        found: list[Encoded | None] = [None] * len(read)
        by_length: dict[int, list[int]] = {}
        for place, each in enumerate(read):
            by_length.setdefault(len(each.ids), []).append(place)
        for places in by_length.values():
            for low in range(0, len(places), TOGETHER):
                group = places[low : low + TOGETHER]
                states = self._states([read[place].ids for place in group])
                for place, state in zip(group, states, strict=True):
                    found[place] = self._encoded(read[place], state)
        return [each for each in found if each is not None]

    def _states(self, ids: list[list[int]]) -> Floats:
        with torch.inference_mode():
            states: Floats = self.network(torch.tensor(ids, dtype=torch.int64)).numpy()
        return states

    def _encoded(self, read: Encoding, states: Floats) -> Encoded:
        whole = states[0] if self.settings.pooling == "cls" else states.mean(axis=0)
        own = np.array(read.special_tokens_mask) == 0
        # The states of [CLS] and [SEP] say what the whole text is about: they would match those of
        # any text. A text that has no token of its own is all there is of it.
        tokens = states[own] if own.any() else states
        return Encoded(_unit(whole), _unit(tokens), bool(read.overflowing))


def read_tokenizer(document: str, vocabulary: int) -> Tokenizer:
    """A `tokenizer.json`. Raises ValueError when it is none, or names tokens the network's
    vocabulary does not reach; MissingExtra where no text can be read."""
    try:
        from tokenizers import Tokenizer  # only text search needs it
    except ImportError as error:
        raise MissingExtra("text", "search by text") from error
    try:
        tokenizer = Tokenizer.from_str(document)
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"it is no tokenizer: {error}") from error
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if not 0 < size <= vocabulary:
        raise ValueError(f"its ids end at {size - 1}, the network knows {vocabulary} tokens")
    return tokenizer


def _unit(vectors: Floats) -> Floats:
    norms = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    unit: Floats = vectors / np.maximum(norms, np.float32(_SMALLEST))
    return unit

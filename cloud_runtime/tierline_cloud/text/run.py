"""`tierline text`: index a catalogue into a bundle, and what is printed of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tierline import ConfigurationError
from tierline_cloud.text.catalogue import read_catalogue
from tierline_cloud.text.encoding import TextEncoder
from tierline_cloud.text.folder import read_folder
from tierline_cloud.text.index import Fidelity, TextIndex, build_index, sizes
from tierline_cloud.text.packing import RESCORED, pack_index
from tierline_cloud.training.console import Console
from tierline_serving.bundle import Bundle
from tierline_serving.signing import Signer

LEAST_FAITHFUL = (0.995, 0.98)  # mean and first percentile of the cosines int8 must keep


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What ``tierline text index`` was told; ``max_tokens`` None: as many as the model reads."""

    folder: Path
    items: Path
    out: Path
    model: str = "products"
    key: Path | None = None
    max_tokens: int | None = None
    rescored: int = RESCORED


def index_text(options: IndexOptions, console: Console, now: datetime) -> tuple[Bundle, str]:
    """Index a catalogue and pack it; the bundle, and what there is to say of it.

    Raises ConfigurationError, also when int8 would change the vectors too much."""
    signer = None if options.key is None else Signer.from_file(options.key)
    encoder = shortened(read_folder(options.folder), options.max_tokens)
    texts = read_catalogue(options.items)
    started = time.monotonic()
    with console.track("encode", len(texts)) as tracker:
        index, fidelity = build_index(encoder, texts, lambda done: tracker.update(done, ""))
    took = time.monotonic() - started
    if fidelity.mean < LEAST_FAITHFUL[0] or fidelity.lowest_percent < LEAST_FAITHFUL[1]:
        raise ConfigurationError(
            f"{options.folder}: int8 rows keep a cosine of {fidelity.mean:.4f} (1st percentile "
            f"{fidelity.lowest_percent:.4f}); at least {LEAST_FAITHFUL} is asked for"
        )
    bundle = pack_index(
        index,
        encoder,
        texts,
        fidelity,
        model=options.model,
        destination=options.out,
        signer=signer,
        now=now,
        rescored=options.rescored,
    )
    told = f"{len(texts):,} items encoded in {took:.1f} s\n{memory_table(index, encoder, fidelity)}"
    return bundle, f"{told}\nbundle: {bundle.path}"


def shortened(encoder: TextEncoder, max_tokens: int | None) -> TextEncoder:
    """The same encoder reading at most so many tokens of a text. Raises ConfigurationError."""
    if max_tokens is None:
        return encoder
    try:
        settings = replace(encoder.settings, max_tokens=max_tokens)
        return TextEncoder(encoder.network, encoder.tokenizer, settings)
    except ValueError as error:
        raise ConfigurationError(f"--max-tokens: {error}") from error


def memory_table(index: TextIndex, encoder: TextEncoder, fidelity: Fidelity) -> str:
    """What a node needs in memory, part by part, and what int8 and cutting cost."""
    parts, tokens = sizes(index, encoder.bytes), index.tokens.shape[0]
    whole = parts["encoder"] + parts["vectors"] + parts["tokens"]
    each = f"{tokens / index.items:.1f} tokens an item"
    return "\n".join(
        [
            f"encoder, float32      {_mb(parts['encoder'])}",
            f"item vectors, int8    {_mb(parts['vectors'])}",
            f"token vectors, int8   {_mb(parts['tokens'])}  ({tokens:,}, {each}; "
            f"float32 would be {parts['tokens_float32'] / 1e6:.1f} MB)",
            f"in all                {_mb(whole)}",
            f"int8 against float32: cosine {fidelity.mean:.5f} in the mean, "
            f"{fidelity.lowest_percent:.5f} at the 1st percentile",
            f"{fidelity.cut:,} texts were longer than {encoder.settings.max_tokens} tokens and "
            "are cut there",
        ]
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:9.2f} MB"

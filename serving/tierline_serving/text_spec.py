"""Kind ``text``: what a manifest says of a catalogue that is searched by text."""

from __future__ import annotations

from dataclasses import dataclass

from tierline_serving._fields import Fields, file_path, integer, name


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """Items 1..``items``; tables ``vectors`` (a row an item, row 0 padding) and ``tokens`` (those
    of item i are rows ``offsets[i]`` to ``offsets[i + 1]``), both of width ``dim``; ``rescored``:
    how many of the best by vectors are ordered by tokens."""

    items: int
    dim: int
    vectors: str
    tokens: str
    offsets: str  # a listed file: npy int64 [items + 2]
    tokenizer: str  # a listed file: tokenizer.json
    rescored: int


def read_text_spec(value: object, path: str) -> TextSpec:
    """Read ``manifest.text``. Raises BundleRefused naming the field."""
    fields = Fields(value, path)
    spec = TextSpec(
        items=fields.need("items", integer(1, 2**31 - 2)),
        dim=fields.need("dim", integer(1, 2**20)),
        vectors=fields.need("vectors", name),
        tokens=fields.need("tokens", name),
        offsets=fields.need("offsets", file_path),
        tokenizer=fields.need("tokenizer", file_path),
        rescored=fields.need("rescored", integer(1, 10_000)),
    )
    fields.finish()
    return spec

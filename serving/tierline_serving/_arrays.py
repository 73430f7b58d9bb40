"""A bundle's tables, neighbours, carried items and prior: mapped read-only, and checked against
the manifest."""

from __future__ import annotations

import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierline import BundleRefused
from tierline_serving.carried import Carried
from tierline_serving.manifest import Manifest, TableFiles
from tierline_serving.neighbours import LEVELS, NeighbourTable, starts_of
from tierline_serving.sequence_spec import SequenceSpec

Array = NDArray[np.generic]

# What NumPy raises for a header that is no header; literal_eval adds the last three.
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, OverflowError, OSError, EOFError),
    *(SyntaxError, tokenize.TokenError, MemoryError, RecursionError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableArrays:
    """A table's rows: ``values`` float32 or float16 [n, d], or row-wise int8 where row i is
    ``scales[i] * codes[i] + biases[i]``: ``codes`` int8 [n, d], ``scales`` float32 [n], ``biases``
    float32 [n] or None when symmetric. All C-contiguous and read-only."""

    values: Array | None = None
    codes: NDArray[np.int8] | None = None
    scales: NDArray[np.float32] | None = None
    biases: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        matrix = self.codes if self.values is None else self.values
        assert matrix is not None
        return matrix.shape[0], matrix.shape[1]


def read_table(folder: Path, name: str, files: TableFiles) -> TableArrays:
    """Map a table into memory. Raises BundleRefused when its parts do not fit together."""
    where = f"table {name}"
    if files.values is not None:
        values = _map(folder, files.values)
        _expect(where, files.values, values, ("float32", "float16"), (None, None))
        return TableArrays(values=values)
    assert files.codes is not None
    assert files.scales is not None
    codes, scales = _map(folder, files.codes), _map(folder, files.scales)
    biases = None if files.biases is None else _map(folder, files.biases)
    _expect(where, files.codes, codes, ("int8",), (None, None))
    _expect(where, files.scales, scales, ("float32",), (codes.shape[0],))
    if biases is not None and files.biases is not None:
        _expect(where, files.biases, biases, ("float32",), (codes.shape[0],))
    return TableArrays(
        codes=codes.astype(np.int8, copy=False),
        scales=scales.astype(np.float32, copy=False),
        biases=None if biases is None else biases.astype(np.float32, copy=False),
    )


def read_neighbours(folder: Path, sequence: SequenceSpec) -> NeighbourTable:
    """Map the neighbours' files into memory. Raises BundleRefused for what is no such table."""
    spec, where = sequence.neighbours, "sequence.neighbours"
    assert spec is not None
    counts, ids, codes, levels = (_map(folder, path) for path in spec.paths())
    _expect(where, spec.counts, counts, ("uint8",), (sequence.table_items + 1,))
    _expect(where, spec.ids, ids, ("uint16", "uint32"), (None,))
    _expect(where, spec.codes, codes, ("uint8",), (None,))
    _expect(where, spec.levels, levels, ("float32",), (LEVELS,))
    try:
        return NeighbourTable(
            starts=starts_of(counts.astype(np.uint8, copy=False)),
            ids=ids,
            codes=codes.astype(np.uint8, copy=False),
            levels=levels.astype(np.float32, copy=False),
            weight=spec.weight,
            decay=spec.decay,
            window=spec.window,
            floor=spec.floor,
        )
    except ValueError as error:
        raise BundleRefused(f"{where}: {error}") from error


def read_carried(folder: Path, sequence: SequenceSpec) -> Carried:
    """Map the carried items' files. Raises BundleRefused for what is no such list."""
    spec, where = sequence.carried, "sequence.carried"
    assert spec is not None
    ids, lost = _map(folder, spec.ids), _map(folder, spec.lost)
    _expect(where, spec.ids, ids, ("uint16", "uint32"), (spec.items,))
    _expect(where, spec.lost, lost, ("uint8",), (sequence.items + 1,))
    try:
        return Carried(
            ids=ids,
            lost=lost.astype(np.uint8, copy=False),
            decay=spec.decay,
            window=spec.window,
            above=spec.above,
        )
    except ValueError as error:
        raise BundleRefused(f"{where}: {error}") from error


def read_prior(folder: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Map the prior into memory. Raises BundleRefused when it is no score per item."""
    assert manifest.prior is not None
    prior = _map(folder, manifest.prior)
    items = None if manifest.sequence is None else manifest.sequence.items + 1
    _expect("prior", manifest.prior, prior, ("float32",), (items,))
    scores = prior.astype(np.float32, copy=False)
    if scores.size < 2 or scores[0] != -np.inf:
        raise BundleRefused("prior: entry 0 is padding and must be −inf, items follow it")
    if np.isnan(scores).any() or (scores == np.inf).any():
        raise BundleRefused("prior: a score is NaN or +inf")
    return scores


def check_arrays(folder: Path, manifest: Manifest) -> None:
    """Check every table, the neighbours, the carried items and the prior. Raises BundleRefused."""
    for name, files in manifest.tables.items():
        table = read_table(folder, name, files)
        for part, array in (("scales", table.scales), ("biases", table.biases)):
            if array is not None and not np.isfinite(array).all():
                raise BundleRefused(f"table {name}: {part} hold NaN or infinity")
        sequence = manifest.sequence
        if sequence is not None and name == sequence.table:
            expected = (sequence.table_items + 1, sequence.dim)
            if table.shape != expected:
                rows = "items + 1" if sequence.carried is None else "carried.items + 2"
                raise BundleRefused(
                    f"table {name} has shape {list(table.shape)}, the manifest's sequence says "
                    f"{list(expected)}: {rows} rows of dim"
                )
    if manifest.sequence is not None and manifest.sequence.neighbours is not None:
        read_neighbours(folder, manifest.sequence)
    if manifest.sequence is not None and manifest.sequence.carried is not None:
        read_carried(folder, manifest.sequence)
    if manifest.prior is not None:
        read_prior(folder, manifest)


def _map(folder: Path, name: str) -> Array:
    try:
        # Plain npy only: np.load would also open zip archives and pickles.
        array = np.lib.format.open_memmap(folder / name, mode="r")
    except _UNREADABLE as error:
        raise BundleRefused(f"{name} is no readable npy file: {error}") from error
    if not array.flags.c_contiguous:
        raise BundleRefused(f"{name} is stored column by column; save it in C order")
    return array


def _expect(
    where: str, name: str, array: Array, dtypes: tuple[str, ...], shape: tuple[int | None, ...]
) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype.newbyteorder("=").name not in dtypes or not array.dtype.isnative or not fits:
        wanted = [("any" if size is None else size) for size in shape]
        raise BundleRefused(
            f"{where}: {name} is {array.dtype} {list(array.shape)}, expected "
            f"{' or '.join(dtypes)} {wanted}"
        )

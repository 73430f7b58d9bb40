"""What a bundle says of itself: `manifest.json` format 1, read strictly and whole or refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn

from tierline import BundleRefused
from tierline.certificate import Certificate
from tierline_serving._fields import (
    Fields,
    array_of,
    canonical_json,
    factory,
    file_path,
    free_object,
    instant,
    integer,
    map_of,
    name,
    number,
    one_of,
    parse_json,
    refuse,
    sha256,
    show,
    text,
)
from tierline_serving.certified import read_certificate
from tierline_serving.sequence_spec import SequenceSpec, read_sequence_spec
from tierline_serving.text_spec import TextSpec, read_text_spec

FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"
SIGNATURE_FILE: Final = "manifest.sig"
OPSETS: Final = (13, 25)  # what the pinned ONNX Runtime runs with per-axis quantisation, and knows
DTYPES: Final = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the bundle: what its bytes must hash to, and how many there are."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What runs the model. ``factory`` names code outside the bundle; a server imports it only
    when told to."""

    engine: str  # "onnx" | "torch"
    entry: str | None = None  # the model's file; None only with a factory that needs no weights
    opset: int | None = None
    precision: str | None = None
    architecture: str | None = None
    config: Mapping[str, object] | None = None
    factory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output; an axis is a size or a name (``"rows"``)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: str | None = None  # inputs: "query" | "candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFiles:
    """Where a table lies: ``values`` alone, or ``codes`` and ``scales`` (``biases`` None when
    symmetric)."""

    values: str | None = None
    codes: str | None = None
    scales: str | None = None
    biases: str | None = None

    def paths(self) -> Iterator[str]:
        """The files the table is made of."""
        return (p for p in (self.values, self.codes, self.scales, self.biases) if p is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintySpec:
    """The output that says how unsure the model is, and above which value to escalate."""

    output: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSpec:
    """Requests with the replies they must get, within ``tolerance``."""

    requests: str
    replies: str
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A valid manifest: ``parse`` and ``from_json`` are the ways to get one."""

    model: str
    version: str
    kind: str  # "sequence" | "tensor" | "text"
    tier: str  # "edge" | "cloud"
    created: str  # UTC, "2026-11-21T04:00:00Z"
    files: Mapping[str, FileEntry]
    runtime: Runtime
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    sequence: SequenceSpec | None = None
    text: TextSpec | None = None
    tables: Mapping[str, TableFiles] = field(default_factory=dict)
    uncertainty: UncertaintySpec | None = None
    certificate: Certificate | None = None
    prior: str | None = None
    golden: GoldenSpec | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read `manifest.json`. Raises BundleRefused naming the field, and nothing else."""
        return cls.from_json(parse_json(data, "manifest"))

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Validate JSON already parsed. Raises BundleRefused naming the field."""
        manifest = _read_manifest(value)
        _check_references(manifest)
        _check_kind(manifest)
        return manifest

    def to_json(self) -> dict[str, object]:
        """As JSON; fields that are None are left out."""
        return {key: _plain(value) for key, value in _items(self) if value is not None}

    def to_bytes(self) -> bytes:
        """The canonical bytes: sorted keys, UTF-8, a newline at the end."""
        return canonical_json(self.to_json())

    def referenced_files(self) -> Iterator[tuple[str, str]]:
        """Every (field, path) that the manifest points to."""
        if self.runtime.entry is not None:
            yield "runtime.entry", self.runtime.entry
        for table_name, table in self.tables.items():
            for path in table.paths():
                yield f"tables.{table_name}", path
        if self.sequence is not None:
            yield from self.sequence.paths()
        if self.prior is not None:
            yield "prior", self.prior
        if self.text is not None:
            yield "text.offsets", self.text.offsets
            yield "text.tokenizer", self.text.tokenizer
        if self.golden is not None:
            yield "golden.requests", self.golden.requests
            yield "golden.replies", self.golden.replies


def _read_manifest(value: object) -> Manifest:
    fields = Fields(value, "manifest")
    format_number = fields.need("format", integer(1, 2**31))
    if format_number > FORMAT:
        raise BundleRefused(
            f"manifest: format {format_number} is newer than this Tierline reads ({FORMAT}); "
            "upgrade Tierline or publish for this format"
        )
    manifest = Manifest(
        model=fields.need("model", name),
        version=fields.need("version", name),
        kind=fields.need("kind", one_of(("sequence", "tensor", "text"))),
        tier=fields.need("tier", one_of(("edge", "cloud"))),
        created=fields.need("created", instant),
        files=fields.need("files", map_of(read_listed_path, read_file_entry)),
        runtime=fields.need("runtime", _read_runtime),
        inputs=fields.maybe("inputs", array_of(_read_tensor)) or (),
        outputs=fields.maybe("outputs", array_of(_read_tensor)) or (),
        sequence=fields.maybe("sequence", read_sequence_spec),
        text=fields.maybe("text", read_text_spec),
        tables=fields.maybe("tables", map_of(name, _read_table)) or {},
        uncertainty=fields.maybe("uncertainty", _read_uncertainty),
        certificate=fields.maybe("certificate", read_certificate),
        prior=fields.maybe("prior", file_path),
        golden=fields.maybe("golden", _read_golden),
        metrics=fields.maybe("metrics", free_object) or {},
    )
    fields.finish()
    return manifest


def read_file_entry(value: object, path: str) -> FileEntry:
    """A file's hash and size. Raises BundleRefused."""
    fields = Fields(value, path)
    entry = FileEntry(
        sha256=fields.need("sha256", sha256), bytes=fields.need("bytes", integer(0, 2**60))
    )
    fields.finish()
    return entry


def _read_runtime(value: object, path: str) -> Runtime:
    fields = Fields(value, path)
    runtime = Runtime(
        engine=fields.need("engine", one_of(("onnx", "torch"))),
        entry=fields.maybe("entry", file_path),
        opset=fields.maybe("opset", integer(*OPSETS)),
        precision=fields.maybe("precision", text),
        architecture=fields.maybe("architecture", name),
        config=fields.maybe("config", free_object),
        factory=fields.maybe("factory", factory),
    )
    fields.finish()
    if runtime.engine == "onnx":
        fields.need("entry", file_path)
        fields.need("opset", integer(*OPSETS))
        if runtime.architecture or runtime.factory or runtime.config is not None:
            refuse(path, "architecture, config and factory are for engine torch")
        return runtime
    if runtime.opset is not None:
        refuse(f"{path}.opset", "is for engine onnx")
    if (runtime.architecture is None) == (runtime.factory is None):
        refuse(path, "engine torch needs exactly one of architecture and factory")
    if runtime.architecture is not None:
        fields.need("entry", file_path)
    # Any other file format of torch weights is a pickle, and nothing here is ever unpickled.
    if runtime.entry is not None and not runtime.entry.endswith(".safetensors"):
        refuse(f"{path}.entry", f"expected a .safetensors file, got {show(runtime.entry)}")
    return runtime


def _read_tensor(value: object, path: str) -> TensorSpec:
    fields = Fields(value, path)
    spec = TensorSpec(
        name=fields.need("name", text),
        dtype=fields.need("dtype", one_of(DTYPES)),
        shape=fields.need("shape", array_of(_axis)),
        role=fields.maybe("role", one_of(("query", "candidate"))),
    )
    fields.finish()
    return spec


def _read_table(value: object, path: str) -> TableFiles:
    fields = Fields(value, path)
    files = TableFiles(
        values=fields.maybe("values", file_path),
        codes=fields.maybe("codes", file_path),
        scales=fields.maybe("scales", file_path),
        biases=fields.maybe("biases", file_path),
    )
    fields.finish()
    quantised = files.codes is not None and files.scales is not None
    stray = files.codes or files.scales or files.biases
    if quantised if files.values is not None else not quantised:
        refuse(path, "expected either values, or codes with scales (and biases)")
    if files.values is not None and stray:
        refuse(path, "expected either values, or codes with scales (and biases), not both")
    return files


def _read_uncertainty(value: object, path: str) -> UncertaintySpec:
    fields = Fields(value, path)
    spec = UncertaintySpec(
        output=fields.need("output", text), threshold=fields.maybe("threshold", number(-math.inf))
    )
    fields.finish()
    return spec


def _read_golden(value: object, path: str) -> GoldenSpec:
    fields = Fields(value, path)
    spec = GoldenSpec(
        requests=fields.need("requests", file_path),
        replies=fields.need("replies", file_path),
        tolerance=fields.need("tolerance", number(0.0)),
    )
    fields.finish()
    return spec


def read_listed_path(value: object, path: str) -> str:
    """A path that ``files`` may list. Raises BundleRefused."""
    if value in (MANIFEST_FILE, SIGNATURE_FILE):
        refuse(path, "the manifest and its signature are not listed: they cannot hash themselves")
    return file_path(value, path)


def _axis(value: object, path: str) -> int | str:
    return text(value, path) if isinstance(value, str) else integer(0, 2**40)(value, path)


def utc_instant(instant: datetime) -> str:
    """An aware instant the way manifests write it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wrong(where: str, why: str) -> NoReturn:
    refuse(f"manifest.{where}", why)


def _check_references(manifest: Manifest) -> None:
    for where, path in manifest.referenced_files():
        if path not in manifest.files:
            _wrong(where, f"points to {show(path)}, which files does not list")
    if manifest.certificate is not None and manifest.uncertainty is None:
        _wrong("certificate", "is about an uncertainty threshold, and there is no uncertainty")
    for which, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            _wrong(which, "two tensors share a name")


def _check_kind(manifest: Manifest) -> None:
    _check_text(manifest)
    sequence = manifest.sequence
    if manifest.kind == "sequence":
        if sequence is None:
            _wrong("sequence", "missing; kind sequence requires it")
        if sequence.table is None and manifest.runtime.engine == "onnx":
            _wrong("sequence.table", "missing; engine onnx needs the item table")
        if sequence.table is not None and sequence.table not in manifest.tables:
            _wrong("sequence.table", f"names {show(sequence.table)}, which tables does not hold")
        if sequence.neighbours is not None and manifest.runtime.engine != "onnx":
            _wrong("sequence.neighbours", "is for engine onnx; a torch module has its own")
        if sequence.carried is not None and manifest.runtime.engine != "onnx":
            _wrong("sequence.carried", "is for engine onnx, whose table it is about")
        if sequence.carried is not None and manifest.uncertainty is None:
            _wrong("sequence.carried", "raises an uncertainty, and there is no uncertainty")
        return
    if sequence is not None:
        _wrong("sequence", f"is for kind sequence; this is kind {manifest.kind}")
    for i, spec in enumerate(manifest.inputs):
        if spec.role is None:
            _wrong(f"inputs[{i}].role", f"missing; kind {manifest.kind} needs query or candidate")


def _check_text(manifest: Manifest) -> None:
    spec = manifest.text
    if spec is None or manifest.kind != "text":
        if spec is not None or manifest.kind == "text":
            _wrong("text", f"belongs to kind text and to no other; this is kind {manifest.kind}")
        return
    if manifest.runtime.engine != "torch":
        _wrong("runtime.engine", "kind text is served by engine torch")
    for which in (spec.vectors, spec.tokens):
        if which not in manifest.tables:
            _wrong("text", f"names the table {show(which)}, which tables does not hold")


def _items(manifest: Manifest) -> Iterator[tuple[str, object]]:
    return ((key, getattr(manifest, key)) for key in Manifest.__dataclass_fields__)


def _plain(value: object) -> object:
    match value:
        case FileEntry() | Runtime() | TensorSpec() | SequenceSpec() | TableFiles():
            return _without_none(asdict(value))
        case UncertaintySpec() | GoldenSpec() | TextSpec():
            return _without_none(asdict(value))
        case Certificate():
            return value.to_json()
        case tuple() | list():
            return [_plain(element) for element in value]
        case Mapping():
            return {key: _plain(element) for key, element in value.items()}
        case _:
            return value


def _without_none(fields: dict[str, object]) -> dict[str, object]:
    return {key: _plain(value) for key, value in fields.items() if value is not None}

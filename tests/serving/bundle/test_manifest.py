"""A manifest is read whole or refused, and nothing but BundleRefused ever comes of a bad one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import sample
from hypothesis import given
from hypothesis import strategies as st

from tierline import BundleRefused
from tierline_serving.manifest import FORMAT, Manifest

Json = dict[str, Any]  # Any: tests reach into nested JSON

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def valid() -> Json:
    """The JSON of a manifest that uses every field."""
    files = {name: {"sha256": "0" * 64, "bytes": 1} for name in sample.sequence_files()}
    return {**sample.sequence_manifest(), "files": files}


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    found = [path] if path else []
    steps: list[Any] = []
    if isinstance(value, dict):
        steps = list(value)
    elif isinstance(value, list):
        steps = list(range(len(value)))
    for step in steps:
        found += places(value[step], (*path, step))  # type: ignore[index]  # dict or list
    return found


def put(manifest: Json, path: tuple[Any, ...], value: object) -> Json:
    """A copy with one value replaced."""
    changed = copy.deepcopy(manifest)
    here: Any = changed
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return changed


def refusal(manifest: Json) -> str:
    """What a manifest is refused with."""
    with pytest.raises(BundleRefused) as caught:
        Manifest.from_json(manifest)
    return str(caught.value)


def test_a_manifest_survives_writing_and_reading() -> None:
    manifest = Manifest.from_json(valid())
    assert Manifest.parse(manifest.to_bytes()) == manifest


def test_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    shuffled = dict(reversed(list(valid().items())))
    written = Manifest.from_json(shuffled).to_bytes()
    assert written == Manifest.from_json(valid()).to_bytes()
    assert written.endswith(b"}\n")
    assert "naïve".encode() in written


@given(st.sampled_from(places(valid())), ANY_JSON)
def test_a_mutated_manifest_is_read_or_refused(path: tuple[Any, ...], value: object) -> None:
    raw = json.dumps(put(valid(), path, value)).encode("utf-8", "surrogatepass")
    try:
        manifest = Manifest.parse(raw)
    except BundleRefused:
        return
    assert Manifest.parse(manifest.to_bytes()) == manifest


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_manifest_with_one_changed_byte_is_read_or_refused(place: int, byte: int) -> None:
    raw = bytearray(Manifest.from_json(valid()).to_bytes())
    raw[place % len(raw)] = byte
    try:
        manifest = Manifest.parse(bytes(raw))
    except BundleRefused:
        return
    assert Manifest.parse(manifest.to_bytes()) == manifest


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused, match="manifest"):
        Manifest.parse(data)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BundleRefused):
        Manifest.parse(b'{"metrics": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_key_written_twice_is_refused() -> None:
    raw = Manifest.from_json(valid()).to_bytes().replace(b"{", b'{"model": "other", ', 1)
    with pytest.raises(BundleRefused, match="'model' appears twice"):
        Manifest.parse(raw)


def test_a_newer_format_is_named() -> None:
    expected = "format 2 is newer than this Tierline reads (1)"
    assert expected in refusal({**valid(), "format": FORMAT + 1})


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../up", "a/../b", "a/./b", "a//b", "./a", "a/", ".", "..", ""),
        *("a\\b", "C:a", "a\x00b", "a\nb", "manifest.json", "manifest.sig", "\ud800"),
    ],
)
def test_a_path_that_may_lead_out_is_refused(path: str) -> None:
    manifest = valid()
    manifest["files"][path] = {"sha256": "0" * 64, "bytes": 1}
    assert "manifest.files" in refusal(manifest)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("model",), "a/b", "manifest.model: expected 1 to 64"),
        (("version",), None, "manifest.version: missing"),
        (("kind",), "ctr", "manifest.kind: expected one of sequence, tensor"),
        (("created",), "2026-11-21T04:00:00+02:00", "manifest.created: expected an instant in UTC"),
        (("created",), "yesterday", "manifest.created: expected an instant like"),
        (("runtime", "opset"), 99, "manifest.runtime.opset: expected an integer from"),
        (("runtime", "opset"), None, "manifest.runtime.opset: missing"),
        (("runtime", "entry"), "b.onnx", "manifest.runtime.entry: points to 'b.onnx'"),
        (("runtime", "engine"), "tensorrt", "manifest.runtime.engine: expected one of onnx, torch"),
        (("sequence", "items"), True, "manifest.sequence.items: expected an integer"),
        (("sequence", "table"), "users", "manifest.sequence.table: names 'users'"),
        (("sequence", "table"), None, "manifest.sequence.table: missing"),
        (("sequence",), None, "manifest.sequence: missing"),
        (("sequence", "neighbours", "ids"), None, "manifest.sequence.neighbours.ids: missing"),
        (
            ("sequence", "neighbours", "codes"),
            "no.npy",
            "manifest.sequence.neighbours: points to 'no.npy'",
        ),
        (
            ("sequence", "neighbours", "window"),
            0,
            "manifest.sequence.neighbours.window: expected an integer",
        ),
        (
            ("sequence", "neighbours", "floor"),
            0.0,
            "manifest.sequence.neighbours.floor: expected a fin",
        ),
        (
            ("sequence", "neighbours", "weight"),
            -1.0,
            "manifest.sequence.neighbours.weight: expected a fin",
        ),
        (("inputs", 0, "dtype"), "object", "manifest.inputs[0].dtype: expected one of"),
        (("inputs", 0, "shape", 1), -1, "manifest.inputs[0].shape[1]: expected an integer"),
        (("tables", "items", "codes"), None, "manifest.tables.items: expected either values"),
        (("tables", "items", "values"), "prior.npy", "manifest.tables.items: expected either"),
        (("uncertainty", "threshold"), float("inf"), "manifest.uncertainty.threshold: expected a"),
        (("golden", "tolerance"), -1.0, "manifest.golden.tolerance: expected a finite number"),
        (("metrics", "note"), float("nan"), "manifest.metrics.note: expected a finite number"),
        (("runtime", "factory"), "os:system", "manifest.runtime: architecture, config and factory"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    path: tuple[Any, ...], value: object, expected: str
) -> None:
    assert refusal(put(valid(), path, value)).startswith(expected)


def test_a_misspelt_field_is_not_taken_for_an_absent_one() -> None:
    assert "manifest.'pirior': unknown field" in refusal({**valid(), "pirior": "prior.npy"})


def torch_manifest(runtime: Json) -> Json:
    """A torch manifest of kind tensor."""
    files = {name: {"sha256": "0" * 64, "bytes": 1} for name in ("model.safetensors", "m.pt")}
    return {**sample.tensor_manifest(), "files": files, "runtime": {"engine": "torch", **runtime}}


def test_torch_weights_that_need_unpickling_are_refused() -> None:
    manifest = torch_manifest({"entry": "m.pt", "architecture": "sasrec"})
    assert "expected a .safetensors file" in refusal(manifest)


@pytest.mark.parametrize(
    "runtime",
    [
        {"entry": "model.safetensors", "architecture": "sasrec", "config": {"layers": 2}},
        {"entry": "model.safetensors", "factory": "shop.models:ranker"},
        {"factory": "shop.models:ranker"},
    ],
)
def test_torch_runtimes_of_the_contract_are_read(runtime: Json) -> None:
    manifest = Manifest.from_json(torch_manifest(runtime))
    assert Manifest.parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    "runtime",
    [
        {"entry": "model.safetensors"},
        {"entry": "model.safetensors", "architecture": "sasrec", "factory": "a.b:c"},
        {"architecture": "sasrec"},
        {"factory": "os.system"},
        {"factory": "a b:c"},
    ],
)
def test_torch_runtimes_that_say_too_little_or_too_much_are_refused(runtime: Json) -> None:
    assert refusal(torch_manifest(runtime)).startswith("manifest.runtime")

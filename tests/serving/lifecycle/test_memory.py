"""What a bundle needs, what is free, and that too little is said before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "edge"))

import tiny_bundles

from tierline import BundleRefused
from tierline_serving.memory import MODEL_COPIES, OVERHEAD, available, check_room, needed

MIB = 2**20


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_a_bundle_needs_its_tables_once_and_its_graph_three_times(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_sequence(tmp_path)
    sizes = {name: file.bytes for name, file in bundle.manifest.files.items()}
    graph = sizes.pop("model.onnx")
    assert needed(bundle.manifest) == sum(sizes.values()) + MODEL_COPIES * graph + OVERHEAD


def test_free_memory_is_the_machines_or_the_cgroups_whichever_is_less(tmp_path: Path) -> None:
    machine = write(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:    1024 kB\n") / "meminfo"
    unlimited = write(tmp_path / "max", memory_max="max\n")
    tight = write(
        tmp_path / "tight",
        memory_max=str(8 * MIB),
        memory_current=str(7 * MIB + MIB // 2),
        memory_stat="anon 5\ninactive_file 1000\nactive_file 24\n",
    )
    roomy = write(
        tmp_path / "roomy",
        memory_max=str(64 * MIB),
        memory_current="0",
        memory_stat="inactive_file 0\nactive_file 0\n",
    )
    assert available(machine, unlimited) == MIB
    assert available(machine, tight) == MIB // 2 + 1024
    assert available(machine, roomy) == MIB
    assert available(machine, tmp_path / "absent") == MIB
    assert available(tmp_path / "absent", tmp_path / "absent") is None


def test_this_machine_tells_how_much_is_free() -> None:
    free = available()
    assert free is not None
    assert free > MIB


def test_a_bundle_that_does_not_fit_is_refused_with_both_figures() -> None:
    with pytest.raises(BundleRefused, match="2@ff needs about 3 MiB to load and 2 are free"):
        check_room("2@ff", 3 * MIB, 2 * MIB)
    check_room("2@ff", 3 * MIB, 3 * MIB)
    check_room("2@ff", 3 * MIB, None)

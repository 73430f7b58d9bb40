"""The CUDA kernels pass the shared property suite in the simulator, and compile without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tierline_kernels.cuda import build, catalogue
from tierline_kernels.cuda.catalogue import Kernel

HERE = Path(__file__).parent


def run_in_simulator(suite: str, cases: int, *, nightly: bool = False) -> None:
    """A process of its own: Numba decides at import whether to simulate."""
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        "TIERLINE_KERNEL_BACKENDS": "cuda",
        "TIERLINE_KERNEL_CASES": str(cases),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    if not nightly:
        command += ["-m", "not nightly"]
    # The simulator computes in NumPy, which warns where a GPU yields inf or NaN in silence.
    done = subprocess.run(
        [*command, "-W", "ignore::RuntimeWarning", str(HERE / suite)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@pytest.mark.slow
def test_simulated_kernels_pass_the_shared_suite() -> None:
    run_in_simulator("test_properties.py", 5)


@pytest.mark.slow
def test_simulated_kernels_pass_their_own_cases() -> None:
    run_in_simulator("simulated.py", 2)


@pytest.mark.nightly
def test_simulated_kernels_pass_all_of_their_own_cases() -> None:
    run_in_simulator("simulated.py", 20, nightly=True)


@pytest.mark.nightly
def test_simulated_kernels_pass_five_hundred_cases_of_the_shared_suite() -> None:
    run_in_simulator("test_properties.py", 500)


SAMPLE = (
    catalogue.bag("int8", 64),
    catalogue.bag("float32", 128),
    catalogue.bag("float16", 0),
    catalogue.scan("int8", 64, 1),
    catalogue.scan("float16", 64, 4),
    catalogue.tensor_scan(128),
    catalogue.keys(4),
    catalogue.sort(256),
    catalogue.EMIT,
    catalogue.CERTIFY,
    catalogue.CHECK,
    catalogue.QUANTIZE,
)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", SAMPLE, ids=lambda kernel: kernel.name)
def test_a_kernel_compiles_without_spills_doubles_or_narrow_loads(kernel: Kernel) -> None:
    for capability in ((7, 5), (9, 0)):  # make kernels: all of them, and all kernels
        if capability >= kernel.since:
            made = build.build(kernel, capability)
            assert not made.problems, (made.name, capability, made.problems)
            assert made.cubin


def test_the_gate_sees_doubles_generic_loads_and_wide_loads() -> None:
    good = "ld.global.nc.v4.u32 {%r1}, [%rd1];\nfma.rn.f32 %f1, %f2, %f3, %f4;\nld.param.u64 %rd"
    assert build.problems_in_ptx(good, wide=True) == []
    assert build.problems_in_ptx("ld.global.f32 %f1, [%rd1];", wide=True) == ["no 16-byte load"]
    assert build.problems_in_ptx("fma.rn.f64 %fd1, %fd2;", wide=False) == ["double arithmetic"]
    assert build.problems_in_ptx("cvt.f64.f32 %fd1, %f1;", wide=False) == ["double arithmetic"]
    assert build.problems_in_ptx("ld.v4.u32 {%r1}, [%rd1];", wide=False) == ["generic loads"]
    assert build.problems_in_ptx("dp4a.s32", wide=False, tensor=True) == ["no tensor core"]


@pytest.mark.slow
def test_a_kernel_that_cannot_do_with_its_registers_is_refused() -> None:
    scan = catalogue.scan("int8", 64, 1)
    tight = Kernel("tight", scan.make, scan.signature, wide=True, registers=24)
    assert any("spilled" in problem for problem in build.build(tight, (9, 0)).problems)


def test_the_toolchain_is_the_pinned_one() -> None:
    pins = dict(
        line.split("==")
        for line in (HERE.parent.parent / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    )
    from importlib.metadata import version

    assert {tool: version(tool) for tool in build.TOOLS} == {t: pins[t] for t in build.TOOLS}
    # A PTX newer than the linker's is refused by it: compiler and linker are of one version.
    assert re.match(r"13\.0\.", pins["nvidia-nvvm"])
    assert re.match(r"13\.0\.", pins["nvidia-nvjitlink"])

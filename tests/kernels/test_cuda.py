"""The CUDA kernels pass the shared property suite in the simulator, and compile without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tierline_kernels import BackEndMissing
from tierline_kernels.cuda import build

SUITE = Path(__file__).with_name("test_properties.py")


def run_in_simulator(cases: int) -> None:
    """A process of its own: Numba decides at import whether to simulate."""
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        "TIERLINE_KERNEL_BACKENDS": "cuda",
        "TIERLINE_KERNEL_CASES": str(cases),
    }
    # The simulator computes in NumPy, which warns where a GPU yields inf or NaN in silence.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "ignore::RuntimeWarning", str(SUITE)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_simulated_kernels_pass_the_shared_suite() -> None:
    run_in_simulator(6)


@pytest.mark.nightly
def test_simulated_kernels_pass_five_hundred_cases_of_the_shared_suite() -> None:
    run_in_simulator(500)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (12, 0)])
def test_every_kernel_compiles_without_spills_or_doubles(capability: tuple[int, int]) -> None:
    if find_spec("cuda") is None:
        pytest.skip("needs the wheels numba-cuda[cu13] and cuda-toolkit==13.0.*")
    try:
        build.toolchain()
    except BackEndMissing as problem:
        pytest.skip(str(problem))
    for name, function, signature, wide in build.kernels((64,)):
        made = build.build(name, function, signature, wide, capability)
        assert not made.problems, (name, made.problems)
        assert made.cubin


def test_the_gate_sees_doubles_generic_loads_and_wide_loads() -> None:
    good = "ld.global.nc.v4.u32 {%r1}, [%rd1];\nfma.rn.f32 %f1, %f2, %f3, %f4;\nld.param.u64 %rd"
    assert build.problems_in_ptx(good, wide=True) == []
    assert build.problems_in_ptx("ld.global.f32 %f1, [%rd1];", wide=True) == ["no 16-byte load"]
    assert build.problems_in_ptx("fma.rn.f64 %fd1, %fd2;", wide=False) == ["double arithmetic"]
    assert build.problems_in_ptx("cvt.f64.f32 %fd1, %f1;", wide=False) == ["double arithmetic"]
    assert build.problems_in_ptx("ld.v4.u32 {%r1}, [%rd1];", wide=False) == ["generic loads"]

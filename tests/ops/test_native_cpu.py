"""The native CPU backend beyond what test_every_backend.py asks of all: digits, threads, cache."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from segfocal.ops import native_cpu
from segfocal.ops.class_sums import class_sums

pytestmark = pytest.mark.skipif(native_cpu.MISSING is not None, reason=str(native_cpu.MISSING))


@pytest.fixture(scope="module")
def elementwise():
    """The kernels' own functions, applied to arrays."""
    import numba

    from segfocal.ops import native_cpu_kernels as kernels

    def over_array(function, out_type=np.float32):
        @numba.njit
        def loop(values, out):
            for i in range(values.size):
                out[i] = function(values[i])

        def apply(values):
            out = np.empty(values.shape, out_type)
            loop(values, out)
            return out

        return apply

    return lambda name, out_type=np.float32: over_array(getattr(kernels, name), out_type)


def test_exp_is_good_to_two_units_in_the_last_place(elementwise):
    x = -np.geomspace(1e-9, 87.0, 20_001).astype(np.float32)
    truth = np.exp(x.astype(np.float64))
    error = np.abs(elementwise("_exp")(x) - truth) / truth
    assert error.max() < 2 * 2**-23
    special = elementwise("_exp")(np.array([0, -200, -np.inf, np.nan], np.float32))
    assert special[:3].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(special[3])


def test_log1p_keeps_its_digits_near_zero(elementwise):
    x = np.geomspace(1e-30, 1e6, 20_001).astype(np.float32)
    truth = np.log1p(x.astype(np.float64))
    error = np.abs(elementwise("_log1p")(x) - truth) / truth
    assert error.max() < 2 * 2**-23
    assert elementwise("_log1p")(np.zeros(1, np.float32))[0] == 0
    assert np.isnan(elementwise("_log1p")(np.array([np.nan], np.float32))[0])


def test_every_float16_is_read_and_written_as_torch_does(elementwise):
    bits = np.arange(2**16, dtype=np.uint16)
    floats = torch.from_numpy(bits.view(np.float16)).float().numpy()
    np.testing.assert_array_equal(elementwise("_half_to_float")(bits), floats)
    between = floats[np.isfinite(floats)]
    between = np.concatenate([between, between * 1.0003, [65519.0, 65520.0, 1e9, np.inf]])
    expected = torch.from_numpy(between.astype(np.float32)).half().numpy()
    found = elementwise("_float_to_half", np.uint16)(between.astype(np.float32))
    np.testing.assert_array_equal(found.view(np.float16), expected)
    nan = elementwise("_float_to_half", np.uint16)(np.array([np.nan], np.float32))
    assert np.isnan(nan.view(np.float16)[0])


def test_bfloat16_is_rounded_as_torch_does(elementwise):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, generator=generator) * 10.0 ** torch.randint(
        -30, 30, (20_000,), generator=generator
    )
    values = torch.cat([values, torch.tensor([torch.inf, -torch.inf, 0.0, 3.4e38])])
    found = elementwise("_float_to_bfloat", np.uint16)(values.numpy())
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(found, expected)


def test_two_callers_at_once_get_what_one_gets():
    logits = torch.randn(1, 3, 50_000, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 50_000, dtype=torch.uint8)
    expected = class_sums(logits, labels, backend="numba")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as callers:
            calls = [callers.submit(class_sums, logits, labels, backend="numba") for _ in range(16)]
            results = [call.result() for call in calls]
    finally:
        torch.set_num_threads(before)
    for sums in results:
        assert all(torch.equal(one, other) for one, other in zip(sums, expected, strict=True))


def test_a_kernel_without_a_folder_for_its_cache_still_compiles():
    from segfocal.ops import native_cpu_kernels as kernels

    nowhere = {"__name__": "nowhere"}
    exec("def doubled(x):\n    return 2 * x", nowhere)  # has no file to put a cache beside
    assert kernels._kernel(nowhere["doubled"])(21) == 42


def test_importing_the_ops_does_not_import_numba():
    code = "import sys, segfocal.ops; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_loop_may_use_the_whole_vector_width():
    """What a function does not ask for it does not get: it is compiled before it is inlined."""
    source = Path(native_cpu.__file__).with_name("native_cpu_kernels.py").read_text()
    loops, asking = [], []
    for function in (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)):
        decorators = " ".join(ast.unparse(one) for one in function.decorator_list)
        is_compiled = "_compiled" in decorators or "_kernel" in decorators
        if is_compiled and any(isinstance(node, ast.For) for node in ast.walk(function)):
            loops.append(function.name)
            asking += [function.name] * ("_whole_vectors()" in ast.unparse(function))
    assert len(loops) > 20
    assert asking == loops


def test_loops_are_compiled_to_512_bits_where_the_cpu_is_good_at_them():
    import llvmlite.binding
    import numba

    from segfocal.ops import native_cpu_kernels as kernels

    has_avx512 = llvmlite.binding.get_host_cpu_features().get("avx512f")
    if not has_avx512 or kernels.PREFERRED_BITS < 512:
        pytest.skip("no AVX-512 here, or one that slows the core down")
    row, side = (numba.types.Array(dtype, 1, "C") for dtype in (numba.float32, numba.int32))
    compiled = kernels._compiled()(kernels._towards_side.py_func)
    compiled.compile((row, side, numba.int64, row, row, row))
    (code,) = compiled.inspect_asm().values()
    assert code.count("%zmm") > code.count("%ymm")

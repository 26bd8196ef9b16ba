"""Every wrong argument raises an error that names it, and nothing leaks on the way out."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest

import edgekern
from edgekern import kernels
from edgekern._lib import core

N, K = 5, 12


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


Q = ones(N, K, dtype=np.int8)
PACKED = kernels.int8_pack(Q, ones(N))
ZERO_POINT = np.zeros(2, np.int32)
U8 = ones(2, K, dtype=np.uint8)

NUMPY_ERRORS = {
    "x is a list": (lambda: kernels.int8_linear([1.0], PACKED), TypeError, r"x must be a NumPy array.*got list"),
    "x is a scalar": (lambda: kernels.int8_linear(np.float32(1), PACKED), TypeError, r"x must be .*\[..., K\]"),
    "x is 0-d": (lambda: kernels.int8_linear(ones(), PACKED), TypeError, r"shape \(\)"),
    "x is float64": (lambda: kernels.int8_linear(ones(2, K, dtype="f8"), PACKED), TypeError, "x must be .*got float64"),
    "x is big-endian": (lambda: kernels.int8_linear(ones(2, K, dtype=">f4"), PACKED), TypeError, "got >f4"),
    "x is too narrow": (
        lambda: kernels.int8_linear(ones(2, K - 1), PACKED),
        ValueError,
        "x must have 12 columns.*got 11",
    ),
    "x is uint16 bits": (
        lambda: kernels.int8_linear(ones(2, K, dtype=np.uint16), PACKED),
        TypeError,
        "dtype='bfloat16'; got uint16 array",
    ),
    "float32 named bfloat16": (
        lambda: kernels.int8_linear(ones(2, K), PACKED, dtype="bfloat16"),
        TypeError,
        "got float32 array of shape .2, 12. and dtype='bfloat16'",
    ),
    "dtype is unknown": (
        lambda: kernels.int8_linear(ones(2, K), PACKED, dtype="float8"),
        ValueError,
        "dtype must be None or 'bfloat16', got 'float8'",
    ),
    "activation is unknown": (
        lambda: kernels.int8_linear(ones(2, K), PACKED, "tanh"),
        ValueError,
        "activation must be one of none, relu, .*got 'tanh'",
    ),
    "activation code is unknown": (
        lambda: core.int8_linear(ones(2, K), PACKED.data, 9),
        ValueError,
        "edgekern.int8_linear: .*activation",
    ),
    "isa is unknown": (
        lambda: kernels.int8_linear(ones(2, K), PACKED, isa="sse9"),
        ValueError,
        "isa='sse9' is no ISA of this build; this CPU runs .*scalar",
    ),
    "isa is a number": (lambda: kernels.int8_linear(ones(2, K), PACKED, isa=3), TypeError, "isa must be .*got int"),
    "packed is bytes": (
        lambda: kernels.int8_linear(ones(2, K), PACKED.data, "none"),
        TypeError,
        "packed must be an Int8Packed",
    ),
    "packed is garbage": (
        lambda: kernels.Int8Packed(ones(4096, dtype=np.uint8)),
        ValueError,
        "packed .4096 bytes. holds no",
    ),
    "packed is empty": (lambda: kernels.Int8Packed(ones(0, dtype=np.uint8)), ValueError, "packed .0 bytes. holds no"),
    "packed is truncated": (lambda: kernels.Int8Packed(PACKED.data[:-1]), ValueError, "truncated"),
    "packed is 2-D": (lambda: kernels.Int8Packed(PACKED.data[None]), ValueError, "packed must have 1 dimension"),
    "packed is int8": (lambda: kernels.Int8Packed(PACKED.data.view(np.int8)), TypeError, "packed must be .*uint8"),
    "packed is a list": (lambda: kernels.Int8Packed([1]), TypeError, "packed must be .*got list"),
    "packed is unaligned": (lambda: core.int8_describe(PACKED.data[1:]), ValueError, "multiple of 64 bytes"),
    "packed is strided": (lambda: core.int8_describe(PACKED.data[::2]), ValueError, "contiguous"),
    "weight is int8": (lambda: kernels.int8_quantize(Q), TypeError, "weight must be .*got int8"),
    "weight is 1-D": (lambda: kernels.int8_quantize(ones(K)), ValueError, "weight must have 2 dimensions"),
    "weight is NaN": (lambda: kernels.int8_quantize(ones(N, K) * np.nan), ValueError, "weight must be finite"),
    "weight is Inf": (lambda: kernels.int8_quantize(ones(N, K) * np.inf), ValueError, "weight must be finite"),
    "q is float": (lambda: kernels.int8_pack(ones(N, K), ones(N)), TypeError, "q must be .*int8.*got float32"),
    "q is 1-D": (lambda: kernels.int8_pack(Q[0], ones(N)), TypeError, r"q must be .*\[N, K\]"),
    "scale is float64": (lambda: kernels.int8_pack(Q, ones(N, dtype="f8")), TypeError, "scale must be .*got float64"),
    "scale is 2-D": (lambda: kernels.int8_pack(Q, ones(N, 1)), ValueError, "scale must have 1 dimension"),
    "scale is short": (lambda: kernels.int8_pack(Q, ones(N - 1)), ValueError, "scale must have 5 values.*got 4"),
    "scale is NaN": (lambda: kernels.int8_pack(Q, ones(N) * np.nan), ValueError, "scale must be finite"),
    "bias is long": (lambda: kernels.int8_pack(Q, ones(N), ones(N + 1)), ValueError, "bias must have 5 values.*got 6"),
    "bias is int": (lambda: kernels.int8_pack(Q, ones(N), Q[:, 0]), TypeError, "bias must be .*float32"),
    "out is short": (
        lambda: core.int8_pack(Q, ones(N), None, PACKED.data[:64]),
        ValueError,
        "out must have the .* bytes of int8_packed_size, got 64",
    ),
    "form is unknown": (
        lambda: kernels.int8_pack(Q, ones(N), form="coo"),
        ValueError,
        "form must be .*blocks_4.*got 'coo'",
    ),
    "form code is unknown": (lambda: core.int8_packed_size(Q, 3), ValueError, "unknown form"),
    "size is negative": (lambda: core.int8_dense_packed_size(-1, 4), ValueError, "-1 x 4"),
    "size is too large": (lambda: core.int8_dense_packed_size(1, 1 << 40), ValueError, "too large"),
    "q columns": (lambda: kernels.int8_matmul(U8[:, 1:], ZERO_POINT, PACKED), ValueError, "q must have 12 columns"),
    "q dtype": (lambda: kernels.int8_matmul(Q[:2], ZERO_POINT, PACKED), TypeError, "q must be .*uint8, got int8"),
    "zero_point length": (
        lambda: kernels.int8_matmul(U8, ZERO_POINT[1:], PACKED),
        ValueError,
        "zero_point must have 2",
    ),
    "zero_point dtype": (lambda: kernels.int8_matmul(U8, ones(2), PACKED), TypeError, "zero_point must be .*int32"),
    "threads": (lambda: kernels.set_num_threads(0), ValueError, "num_threads must be at least 1, got 0"),
    "steps": (lambda: core.peak_int8_macs("scalar", 0), ValueError, "steps must be at least 1"),
    "stream": (lambda: core.stream_read("scalar", ones(3)), TypeError, "data must be .*uint8"),
}


@pytest.mark.parametrize("case", NUMPY_ERRORS)
def test_numpy_level(case):
    call, error, message = NUMPY_ERRORS[case]
    with pytest.raises(error, match=message):
        call()


def test_a_matrix_too_deep_for_one_int32_sum():
    deep = kernels.int8_pack(ones(1, 65537, dtype=np.int8), ones(1))
    with pytest.raises(ValueError, match=r"at most 65536 columns.*got 65537; int8_linear takes more"):
        kernels.int8_matmul(ones(1, 65537, dtype=np.uint8), ZERO_POINT[:1], deep)


# ------------------------------------------------------------------------------------------------ torch ops

torch = pytest.importorskip("torch")

from edgekern import ops  # noqa: E402

int8_linear = torch.ops.edgekern.int8_linear.default


def packed_tensor():
    return ops.int8_pack(torch.ones(N, K, dtype=torch.int8), torch.ones(N))


def unaligned(packed):
    raw = torch.empty(packed.numel() + 64, dtype=torch.uint8)
    return raw[1 : packed.numel() + 1].copy_(packed)


# name: (x, packed from a good one, out_features, activation, message)
TORCH_ERRORS = {
    "x is 0-d": (torch.tensor(1.0), lambda p: p, N, 0, "x must have at least one dimension"),
    "x is float64": (torch.ones(2, K).double(), lambda p: p, N, 0, "x must be float32, .*got c10::ScalarType 7"),
    "x is int64": (torch.ones(2, K).long(), lambda p: p, N, 0, "x must be float32, bfloat16 or float16"),
    "x is complex": (torch.ones(2, K) + 0j, lambda p: p, N, 0, "x must be float32, bfloat16 or float16"),
    "x is too wide": (torch.ones(2, 3, K + 1), lambda p: p, N, 0, r"x must end in 12 features.*got shape \[2, 3, 13\]"),
    "x has too many dims": (torch.ones([1] * 64 + [K]), lambda p: p, N, 0, "x has 65 dimensions, at most 64"),
    "x is sparse": (torch.ones(2, K).to_sparse(), lambda p: p, N, 0, "dense CPU tensors.*model.cpu"),
    "x is on meta": (torch.ones(2, K, device="meta"), lambda p: p, N, 0, "on the CPU, got meta and cpu"),
    "packed is on meta": (torch.ones(2, K), lambda p: p.to("meta"), N, 0, "on the CPU, got cpu and meta"),
    "packed is int8": (
        torch.ones(2, K),
        lambda p: p.view(torch.int8),
        N,
        0,
        "packed must be .*uint8.*got c10::ScalarType 1",
    ),
    "packed is 2-D": (torch.ones(2, K), lambda p: p[None], N, 0, "packed must be a contiguous 1-D"),
    "packed is strided": (torch.ones(2, K), lambda p: p[::2], N, 0, "packed must be a contiguous 1-D"),
    "packed is unaligned": (torch.ones(2, K), unaligned, N, 0, "multiple of 64 bytes; packed.clone"),
    "packed is truncated": (torch.ones(2, K), lambda p: p[:-1], N, 0, "truncated"),
    "packed is garbage": (torch.ones(2, K), torch.zeros_like, N, 0, "holds no packed int8 matrix"),
    "packed is empty": (torch.ones(2, K), lambda p: p[:0], N, 0, "packed is empty.*load_state_dict"),
    "out_features differs": (torch.ones(2, K), lambda p: p, N + 1, 0, "out_features must be 5 as in packed, got 6"),
    "activation is negative": (torch.ones(2, K), lambda p: p, N, -1, r"activation must be .*\(0 to 6\), got -1"),
    "activation is unknown": (torch.ones(2, K), lambda p: p, N, 7, r"activation must be .*\(0 to 6\), got 7"),
}


@pytest.mark.parametrize("case", TORCH_ERRORS)
def test_torch_op(case):
    x, change, out_features, activation, message = TORCH_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        int8_linear(x, change(packed_tensor()), out_features, activation)


def test_weights_on_other_devices():
    meta = torch.ones(N, K, device="meta")
    for call in (ops.int8_quantize, ops.int8_unpack, lambda t: ops.int8_pack(t, torch.ones(N))):
        with pytest.raises(TypeError, match=r"must be a dense CPU tensor, got .* on meta"):
            call(meta)
    with pytest.raises(TypeError, match=r"weight must be a dense CPU tensor, got torch\.sparse_coo"):
        ops.int8_quantize(torch.ones(N, K).to_sparse())
    with pytest.raises(TypeError, match="weight must be a dense CPU tensor, got list"):
        ops.int8_quantize([1.0])


@pytest.mark.parametrize("bad", ["shape", "dtype", "activation", "grad", "none"])
def test_no_tensor_handle_leaks(bad):
    # A tensor over NumPy memory holds a reference to the array until its last handle is gone.
    memory, packed_memory = np.ones((2, K), np.float32), PACKED.data.copy()
    packed_memory = kernels.Int8Packed(packed_memory).data  # aligned
    before = [sys.getrefcount(array) for array in (memory, packed_memory)]
    x, packed = torch.from_numpy(memory), torch.from_numpy(packed_memory)
    arguments = {
        "shape": (x[:, 1:], packed, N, 0),
        "dtype": (x.view(torch.int32), packed, N, 0),
        "activation": (x, packed, N, 7),
        "grad": (x.requires_grad_() if bad == "grad" else x, packed, N, 0),
        "none": (x, packed, N, 0),
    }[bad]
    for _ in range(10):
        if bad == "none":
            int8_linear(*arguments)
        else:
            with pytest.raises(ValueError, match="int8_linear"):
                int8_linear(*arguments)
    del x, packed, arguments
    gc.collect()
    assert [sys.getrefcount(array) for array in (memory, packed_memory)] == before


def test_results_are_freed():
    resource = pytest.importorskip("resource")
    packed, x = packed_tensor(), torch.ones(50_000, 2 * K)[:, ::2]  # strided: a copy of x is made and freed too
    int8_linear(x, packed, N, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        int8_linear(x, packed, N, 0)  # 3.4 MB a call
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_registering_twice_is_refused():
    with pytest.raises(RuntimeError, match="already registered"):
        core.register_torch_ops({})


# The modules below edgekern/__init__.py alone, so that a test can change what torch is asked for.
BARE_PACKAGE = f"""
import sys, types
sys.modules["edgekern"] = package = types.ModuleType("edgekern")
package.__path__ = {list(edgekern.__path__)!r}
from edgekern._lib import core
symbols = core.torch_symbols()
"""


def run_python(code):
    command = [sys.executable, "-c", BARE_PACKAGE + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_torch_without_the_c_functions_is_named():
    done = run_python("""
core.torch_symbols = lambda: {**symbols, "aoti_torch_from_the_future": True}
import edgekern.ops
""")
    assert done.returncode != 0
    assert f"torch {torch.__version__} lacks the C function aoti_torch_from_the_future" in done.stderr


def test_the_builtin_pool_serves_a_torch_that_lends_no_threads():
    done = run_python("""
core.torch_symbols = lambda: {name: required for name, required in symbols.items() if required}  # what torch 2.9 has
assert {"torch_parallel_for", "torch_get_num_threads"} <= symbols.keys() - core.torch_symbols().keys()
import torch
torch.set_num_threads(3)
from edgekern import kernels, ops
assert kernels.get_num_threads() == 3
packed = ops.int8_pack(*ops.int8_quantize(torch.randn(600, 300)))
x = torch.randn(100, 300)
expected = torch.ops.edgekern.int8_linear(x, packed, 600, 0)
kernels.set_num_threads(1)
assert torch.get_num_threads() == kernels.get_num_threads() == 1
assert torch.equal(torch.ops.edgekern.int8_linear(x, packed, 600, 0), expected)
""")
    assert done.returncode == 0, done.stderr

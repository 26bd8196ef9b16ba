"""torch.ops.edgekern.int8_linear as PyTorch programs meet it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgekern import kernels, ops  # noqa: E402

N, K = 33, 70
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

int8_linear = torch.ops.edgekern.int8_linear.default


@pytest.fixture(scope="module")
def layer():
    """(packed tensor, the same as kernels.Int8Packed, dequantised weight, bias)."""
    torch.manual_seed(0)
    weight, bias = torch.randn(N, K), torch.randn(N)
    q, scale = ops.int8_quantize(weight)
    packed = ops.int8_pack(q, scale, bias)
    return packed, kernels.Int8Packed(packed.numpy()), q * scale[:, None], bias


def reference(x, layer):
    """The NumPy-level kernel over the same values."""
    bits = x.contiguous().view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()
    y = kernels.int8_linear(bits, layer[1], dtype="bfloat16" if x.dtype == torch.bfloat16 else None)
    return torch.from_numpy(y.view(np.int16)).view(torch.bfloat16) if x.dtype == torch.bfloat16 else torch.from_numpy(y)


def check(x, layer):
    y = int8_linear(x, layer[0], N, 0)
    assert y.dtype == x.dtype
    assert y.shape == (*x.shape[:-1], N)
    assert y.is_contiguous()
    assert torch.equal(y, reference(x, layer))


# --------------------------------------------------------------------------------------- values and layouts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(K,), (1, K), (9, K), (2, 3, K), (1, 1, 1, 4, K), (0, K), (2, 0, 3, K)])
def test_every_shape_and_dtype(layer, shape, dtype):
    check(torch.randn(shape).to(dtype), layer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_is_close_to_the_dense_one(layer, dtype):
    packed, _, weight, bias = layer
    x = torch.randn(50, K).to(dtype)
    dense = torch.nn.functional.linear(x.float(), weight, bias)
    error = int8_linear(x, packed, N, 0).float() - dense
    assert error.square().mean() < 1e-4 * dense.square().mean()


def test_activations(layer):
    packed, x = layer[0], torch.randn(20, K)
    functions = {
        "none": lambda y: y,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
        "silu": torch.nn.functional.silu,
        "relu6": torch.nn.functional.relu6,
        "hardswish": torch.nn.functional.hardswish,
    }
    assert functions.keys() == ops.ACTIVATIONS.keys()
    plain = int8_linear(x, packed, N, 0)
    for name, function in functions.items():
        y = int8_linear(x, packed, N, ops.ACTIVATIONS[name])
        torch.testing.assert_close(y, function(plain), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_matter(layer, dtype):
    x = torch.randn(4, 6, K).to(dtype)
    wide = torch.zeros(4, 6, K + 9, dtype=dtype)
    wide[..., 5 : K + 5] = x
    views = {
        "wide rows": wide[..., 5 : K + 5],
        "every second row": torch.randn(4, 12, K).to(dtype)[:, ::2],
        "swapped leading dims": torch.randn(6, 4, K).to(dtype).transpose(0, 1),
        "spread columns": torch.randn(4, 6, 2 * K).to(dtype)[..., ::2],
        "columns first": torch.randn(K, 6, 4).to(dtype).permute(2, 1, 0),
        "expanded rows": torch.randn(1, K).to(dtype).expand(5, K),
        "expanded batch": torch.randn(6, K).to(dtype).expand(4, 6, K),
        "expanded columns": torch.randn(5, 1).to(dtype).expand(5, K),
        "overlapping rows": torch.randn(K + 5).to(dtype).unfold(0, K, 1),
        "offset": torch.randn(7 * K + 1).to(dtype)[1:].view(7, K),
        "size-one dims": torch.randn(4, K).to(dtype)[:, None, None],
    }
    for name, view in views.items():
        y = int8_linear(view, layer[0], N, 0)
        assert torch.equal(y, int8_linear(view.contiguous(), layer[0], N, 0)), name
        assert torch.equal(y, reference(view.contiguous(), layer)), name


def test_lazily_negated_input(layer):
    x = torch.randn(3, K, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    check(x.resolve_neg(), layer)
    assert torch.equal(int8_linear(x, layer[0], N, 0), int8_linear(x.resolve_neg(), layer[0], N, 0))


def test_nan_rows_stay_rows(layer):
    x = torch.randn(6, K)
    x[2, 3] = torch.nan
    y = int8_linear(x, layer[0], N, 0)
    assert y[2].isnan().all()
    assert y[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_round_trip(dtype):
    weight, bias = torch.randn(N, K).to(dtype), torch.randn(N)
    q, scale = ops.int8_quantize(weight.requires_grad_())
    for given in (bias, None):
        packed = ops.int8_pack(q, scale, given)
        assert (packed.dtype, packed.dim(), packed.data_ptr() % 64) == (torch.uint8, 1, 0)
        q_back, scale_back, bias_back = ops.int8_unpack(packed)
        assert torch.equal(q_back, q)
        assert torch.equal(scale_back, scale)
        assert bias_back is None if given is None else torch.equal(bias_back, bias)
    error = (q * scale[:, None] - weight.float()).abs()
    assert (error <= scale[:, None] * 0.5001).all()


# ------------------------------------------------------------------------------------------------- torch 2


class Model(torch.nn.Module):
    def __init__(self, packed):
        super().__init__()
        self.packed = packed

    def forward(self, x):
        return int8_linear(x * 2, self.packed, N, 1) + 1


@pytest.mark.parametrize(("shape", "dtype"), zip([(K,), (5, K), (2, 3, K)], DTYPES, strict=True))
def test_opcheck(layer, shape, dtype):
    dense, spread = torch.randn(shape).to(dtype), torch.randn(*shape, 2).to(dtype)[..., 0]
    for x in (dense, spread):
        torch.library.opcheck(int8_linear, (x, layer[0], N, 2))


def test_export_with_a_dynamic_batch(layer):
    model = Model(layer[0]).eval()
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(model, (torch.randn(4, K),), dynamic_shapes={"x": {0: batch}})
    assert any(node.target is int8_linear for node in program.graph.nodes)
    for rows in (1, 4, 37):
        x = torch.randn(rows, K)
        assert torch.equal(program.module()(x), model(x))


@pytest.mark.not_emulated("torch.compile needs a compiler for the emulated CPU")
@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_compile_fullgraph(layer, context):
    model = Model(layer[0]).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with context():
        for rows in (3, 8):
            x = torch.randn(rows, K)
            torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------- autograd

NO_BACKWARD = r"int8_linear has no backward.*inference_mode.*dense_\(model\)"


def test_autograd_is_refused(layer):
    leaf = torch.randn(3, K, requires_grad=True)
    for x in (leaf, leaf * 2, leaf[1:], leaf.t().contiguous().t()):
        with pytest.raises(ValueError, match=NO_BACKWARD):
            int8_linear(x, layer[0], N, 0)


def test_inference_on_tensors_that_require_grad(layer):
    x = torch.randn(3, K, requires_grad=True) * 2
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            y = int8_linear(x, layer[0], N, 0)
        assert not y.requires_grad
        assert torch.equal(y, reference(x.detach(), layer))


def test_grad_mode_is_fine_without_gradients(layer):
    with torch.inference_mode():
        inference = torch.randn(3, K)
    for x in (torch.randn(3, K), inference, torch.randn(3, K, requires_grad=True).detach()):
        assert not int8_linear(x, layer[0], N, 0).requires_grad


@pytest.mark.filterwarnings("default")
def test_compile_refuses_autograd(layer):
    torch._dynamo.reset()
    compiled = torch.compile(Model(layer[0]), fullgraph=True)
    with pytest.raises(Exception, match=NO_BACKWARD):
        compiled(torch.randn(3, K, requires_grad=True))

"""torch.ops.edgekern.int4_linear as PyTorch programs meet it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgekern import ops  # noqa: E402

N, K, GROUP = 33, 70, 32
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

int4_linear = torch.ops.edgekern.int4_linear.default


def dequantized(w, scale, zero):
    q = torch.stack((w & 15, w >> 4), -1).reshape(N, -1)[:, :K].int()
    group = torch.arange(K) // GROUP
    return scale.float()[:, group] * (q - (8 if zero is None else zero[:, group].int()))


@pytest.fixture(scope="module", params=[("dense", True), ("bitmap", False)], ids=["dense", "bitmap with zeros"])
def layer(request):
    """(packed tensor, weight as int4 has it, bias)."""
    form, symmetric = request.param
    torch.manual_seed(0)
    weight, bias = torch.randn(N, K) * (torch.rand(N, K) < 0.4), torch.randn(N)
    canonical = ops.int4_quantize(weight, GROUP, symmetric=symmetric)
    packed = ops.int4_pack(*canonical, bias, k=K, group_size=GROUP, form=form)
    assert ((dequantized(*canonical) == 0) | (weight != 0)).all()
    return packed, dequantized(*canonical), bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(K,), (1, K), (9, K), (2, 3, K), (0, K), (2, 0, 3, K)])
def test_it_is_the_dense_layer_but_for_rounding_of_activations(layer, shape, dtype):
    packed, weight, bias = layer
    x = torch.randn(shape).to(dtype)
    y = int4_linear(x, packed, N, ops.ACTIVATIONS["gelu"])
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, (*shape[:-1], N), True)
    dense = torch.nn.functional.gelu(torch.nn.functional.linear(x.float(), weight, bias))
    torch.testing.assert_close(
        y.float(), dense, rtol=2e-2, atol=0.2
    )  # 70 products, each off by up to half a step of 0.02


def test_memory_layout_does_not_matter(layer):
    x = torch.randn(6, 4, K)
    for view in (torch.cat((x, x), -1)[..., 5 : K + 5], x.transpose(0, 1), torch.randn(1, K).expand(5, K)):
        assert torch.equal(int4_linear(view, layer[0], N, 0), int4_linear(view.contiguous(), layer[0], N, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_round_trip(dtype, symmetric):
    weight, bias = torch.randn(N, K).to(dtype).requires_grad_(), torch.randn(N)
    w, scale, zero = ops.int4_quantize(weight, GROUP, symmetric=symmetric)
    assert (w.dtype, w.shape, scale.dtype, scale.shape) == (torch.uint8, (N, K // 2), torch.float16, (N, 3))
    for given in (bias, None):
        packed = ops.int4_pack(w, scale, zero, given, k=K, group_size=GROUP, form="bitmap")
        size = ops.int4_packed_size(w, scale, zero, k=K, group_size=GROUP, form="bitmap")
        assert (packed.dtype, packed.numel()) == (torch.uint8, size)
        w_back, scale_back, zero_back, bias_back = ops.int4_unpack(packed)
        assert torch.equal(w_back, w)
        assert torch.equal(scale_back, scale)
        assert zero_back is None if symmetric else torch.equal(zero_back, zero)
        assert bias_back is None if given is None else torch.equal(bias_back, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(K,), (2, 3, K)])
def test_opcheck(layer, shape, dtype):
    for x in (torch.randn(shape).to(dtype), torch.randn(*shape, 2).to(dtype)[..., 0]):
        torch.library.opcheck(int4_linear, (x, layer[0], N, 2))


def test_autograd_is_refused(layer):
    x = torch.randn(3, K, requires_grad=True)
    with pytest.raises(ValueError, match=r"int4_linear has no backward.*inference_mode"):
        int4_linear(x, layer[0], N, 0)
    with torch.inference_mode():
        assert int4_linear(x, layer[0], N, 0).shape == (3, N)


@pytest.mark.parametrize(
    ("x", "change", "n", "message"),
    [
        (torch.ones(2, K, dtype=torch.float64), lambda p: p, N, "int4_linear: x must be float32, bfloat16 or float16"),
        (torch.ones(2, K - 1), lambda p: p, N, f"x must end in {K} features"),
        (torch.ones(2, K), lambda p: p, N + 1, f"out_features must be {N}"),
        (torch.ones(2, K), lambda p: p[:-64], N, "no packed int4 matrix.*make it with edgekern.ops.int4_pack"),
        (torch.ones(2, K, device="meta"), lambda p: p, N, "must be on the CPU|dense CPU tensors"),
    ],
)
def test_errors_say_what_was_expected(layer, x, change, n, message):
    with pytest.raises(ValueError, match=message):
        int4_linear(x, change(layer[0]), n, 0)

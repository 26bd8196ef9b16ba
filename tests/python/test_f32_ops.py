"""torch.ops.edgekern.f32_linear as PyTorch programs meet it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgekern import ops  # noqa: E402

N, K = 33, 70
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

f32_linear = torch.ops.edgekern.f32_linear.default


@pytest.fixture(scope="module")
def layer():
    """(packed tensor, weight, bias)."""
    torch.manual_seed(0)
    weight, bias = torch.randn(N, K) * (torch.rand(N, K) < 0.2), torch.randn(N)
    return ops.f32_pack(weight, bias, channels=2), weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(K,), (1, K), (9, K), (2, 3, K), (0, K), (2, 0, 3, K)])
def test_it_is_the_dense_layer(layer, shape, dtype):
    packed, weight, bias = layer
    x = torch.randn(shape).to(dtype)
    y = f32_linear(x, packed, N, ops.ACTIVATIONS["gelu"])
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, (*shape[:-1], N), True)
    dense = torch.nn.functional.gelu(torch.nn.functional.linear(x.float(), weight, bias))
    torch.testing.assert_close(y, dense.to(dtype), rtol=1.6e-2 if dtype == torch.bfloat16 else 2e-3, atol=2e-5)


def test_memory_layout_does_not_matter(layer):
    x = torch.randn(6, 4, K)
    views = (
        torch.cat((x, x), -1)[..., 5 : K + 5],
        x.transpose(0, 1),
        torch.randn(K, 6, 4).permute(2, 1, 0),
        torch.randn(1, K).expand(5, K),
    )
    for view in views:
        assert torch.equal(f32_linear(view, layer[0], N, 0), f32_linear(view.contiguous(), layer[0], N, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_round_trip(dtype):
    weight, bias = torch.randn(N, K).to(dtype) * (torch.rand(N, K) < 0.3), torch.randn(N)
    for given in (bias, None):
        packed = ops.f32_pack(weight.requires_grad_(), given, channels=4)
        assert (packed.dtype, packed.numel()) == (torch.uint8, ops.f32_packed_size(weight, 4))
        weight_back, bias_back = ops.f32_unpack(packed)
        assert torch.equal(weight_back, weight.float())
        assert bias_back is None if given is None else torch.equal(bias_back, bias)


@pytest.mark.parametrize(("shape", "dtype"), zip([(K,), (5, K), (2, 3, K)], DTYPES, strict=True))
def test_opcheck(layer, shape, dtype):
    for x in (torch.randn(shape).to(dtype), torch.randn(*shape, 2).to(dtype)[..., 0]):
        torch.library.opcheck(f32_linear, (x, layer[0], N, 2))


def test_autograd_is_refused(layer):
    x = torch.randn(3, K, requires_grad=True)
    with pytest.raises(ValueError, match=r"f32_linear has no backward.*inference_mode"):
        f32_linear(x, layer[0], N, 0)
    with torch.inference_mode():
        assert f32_linear(x, layer[0], N, 0).shape == (3, N)


@pytest.mark.parametrize(
    ("x", "change", "n", "message"),
    [
        (torch.ones(2, K, dtype=torch.float64), lambda p: p, N, "f32_linear: x must be float32, bfloat16 or float16"),
        (torch.ones(2, K - 1), lambda p: p, N, f"x must end in {K} features"),
        (torch.ones(2, K), lambda p: p, N + 1, f"out_features must be {N}"),
        (torch.ones(2, K), lambda p: p[:-64], N, "no packed f32 matrix.*make it with edgekern.ops.f32_pack"),
        (
            torch.ones(2, K),
            lambda p: p.float(),
            N,
            "packed must be a contiguous 1-D uint8 tensor from edgekern.ops.f32_pack",
        ),
        (torch.ones(2, K, device="meta"), lambda p: p, N, "must be on the CPU|dense CPU tensors"),
    ],
)
def test_errors_say_what_was_expected(layer, x, change, n, message):
    with pytest.raises(ValueError, match=message):
        f32_linear(x, change(layer[0]), n, 0)


def test_a_matrix_of_the_other_format_is_refused(layer):
    q, scale = ops.int8_quantize(layer[1])
    with pytest.raises(ValueError, match="no packed f32 matrix"):
        f32_linear(torch.ones(2, K), ops.int8_pack(q, scale), N, 0)
    with pytest.raises(ValueError, match="no packed int8 matrix"):
        torch.ops.edgekern.int8_linear.default(torch.ones(2, K), layer[0], N, 0)

"""torch.ops.edgekern.f32_linear and f16_linear as PyTorch programs meet them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgekern import kernels, ops  # noqa: E402

N, K = 33, 70
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {False: 2e-5, True: 2e-2}  # by whether halves are multiplied


class Format:
    """The functions of one format."""

    def __init__(self, name):
        self.name = name
        self.pack, self.unpack = getattr(ops, f"{name}_pack"), getattr(ops, f"{name}_unpack")
        self.size = getattr(ops, f"{name}_packed_size")
        self.linear = getattr(torch.ops.edgekern, f"{name}_linear").default


@pytest.fixture(scope="module", params=["f32", "f16"])
def floats(request):
    return Format(request.param)


@pytest.fixture(scope="module")
def layer(floats):
    """(packed tensor, its weight, bias)."""
    torch.manual_seed(0)
    weight, bias = torch.randn(N, K) * (torch.rand(N, K) < 0.2), torch.randn(N)
    packed = floats.pack(weight, bias, channels=2)
    return packed, floats.unpack(packed)[0], bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(K,), (1, K), (9, K), (2, 3, K), (0, K), (2, 0, 3, K)])
def test_it_is_the_dense_layer(floats, layer, shape, dtype):
    packed, weight, bias = layer
    x = torch.randn(shape).to(dtype)
    y = floats.linear(x, packed, N, ops.ACTIVATIONS["gelu"])
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, (*shape[:-1], N), True)
    halves = floats.name == "f16" and kernels.f16_halves()
    dense = torch.nn.functional.gelu(torch.nn.functional.linear(x.float(), weight, bias))
    torch.testing.assert_close(
        y, dense.to(dtype), rtol=1.6e-2 if dtype == torch.bfloat16 else 2e-3, atol=TOLERANCE[halves]
    )


def test_memory_layout_does_not_matter(floats, layer):
    x = torch.randn(6, 4, K)
    views = (
        torch.cat((x, x), -1)[..., 5 : K + 5],
        x.transpose(0, 1),
        torch.randn(K, 6, 4).permute(2, 1, 0),
        torch.randn(1, K).expand(5, K),
    )
    for view in views:
        assert torch.equal(floats.linear(view, layer[0], N, 0), floats.linear(view.contiguous(), layer[0], N, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_round_trip(floats, dtype):
    torch.manual_seed(0)
    weight, bias = torch.randn(N, K).to(dtype) * (torch.rand(N, K) < 0.3), torch.randn(N)
    for given in (bias, None):
        packed = floats.pack(weight.requires_grad_(), given, channels=4)
        assert (packed.dtype, packed.numel()) == (torch.uint8, floats.size(weight, 4))
        weight_back, bias_back = floats.unpack(packed)
        if floats.name == "f32" or dtype != torch.float32:  # halves are halves, but for small ones, which these are not
            assert torch.equal(weight_back, weight.float())
        else:
            torch.testing.assert_close(weight_back, weight, rtol=2**-11, atol=1e-7)
        assert torch.equal(floats.unpack(floats.pack(weight_back, given))[0], weight_back)
        assert bias_back is None if given is None else torch.equal(bias_back, bias)


@pytest.mark.parametrize(("shape", "dtype"), list(zip([(K,), (5, K), (2, 3, K)], DTYPES, strict=True)))
def test_opcheck(floats, layer, shape, dtype):
    for x in (torch.randn(shape).to(dtype), torch.randn(*shape, 2).to(dtype)[..., 0]):
        torch.library.opcheck(floats.linear, (x, layer[0], N, 2))


def test_autograd_is_refused(floats, layer):
    x = torch.randn(3, K, requires_grad=True)
    with pytest.raises(ValueError, match=r"f(32|16)_linear has no backward.*inference_mode"):
        floats.linear(x, layer[0], N, 0)
    with torch.inference_mode():
        assert floats.linear(x, layer[0], N, 0).shape == (3, N)


@pytest.mark.parametrize(
    ("x", "change", "n", "message"),
    [
        (
            torch.ones(2, K, dtype=torch.float64),
            lambda p: p,
            N,
            "f(32|16)_linear: x must be float32, bfloat16 or float16",
        ),
        (torch.ones(2, K - 1), lambda p: p, N, f"x must end in {K} features"),
        (torch.ones(2, K), lambda p: p, N + 1, f"out_features must be {N}"),
        (torch.ones(2, K), lambda p: p[:-64], N, "no packed f(32|16) matrix.*make it with edgekern.ops.f(32|16)_pack"),
        (
            torch.ones(2, K),
            lambda p: p.float(),
            N,
            "packed must be a contiguous 1-D uint8 tensor from edgekern.ops.f(32|16)_pack",
        ),
        (torch.ones(2, K, device="meta"), lambda p: p, N, "must be on the CPU|dense CPU tensors"),
    ],
)
def test_errors_say_what_was_expected(floats, layer, x, change, n, message):
    with pytest.raises(ValueError, match=message):
        floats.linear(x, change(layer[0]), n, 0)


def test_a_matrix_of_the_other_format_is_refused(floats, layer):
    q, scale = ops.int8_quantize(layer[1])
    with pytest.raises(ValueError, match=f"no packed {floats.name} matrix"):
        floats.linear(torch.ones(2, K), ops.int8_pack(q, scale), N, 0)
    with pytest.raises(ValueError, match="no packed int8 matrix"):
        torch.ops.edgekern.int8_linear.default(torch.ones(2, K), layer[0], N, 0)

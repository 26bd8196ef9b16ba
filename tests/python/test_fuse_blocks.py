"""Blocks of transformers in few operators: what is recognised, what is left alone, and that nothing else changes."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.nn import GatedMLP, RMSNorm, rotary  # noqa: E402

OPS = torch.ops.edgekern
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Norm(nn.Module):
    """As transformers writes it."""

    def __init__(self, size=48, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(dtype)


class OneMore(Norm):
    """As Gemma's."""

    def forward(self, hidden_states):
        y = hidden_states.float()
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * (1.0 + self.weight)


class Clamped(Norm):
    def forward(self, hidden_states):
        return super().forward(hidden_states).clamp(-1e6, 1e6)


class Gated(nn.Module):
    """As transformers writes it."""

    def __init__(self, size=48, inner=80, act=None):
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner)
        self.down_proj = nn.Linear(inner, size, bias=False)
        self.act_fn = nn.SiLU() if act is None else act

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Limited(Gated):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=1e6) * self.up_proj(x))


def rotate_half(x):
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


class Attention(nn.Module):
    """Two projections that are turned."""

    def __init__(self, size=48):
        super().__init__()
        self.q_proj = nn.Linear(size, 64)
        self.k_proj = nn.Linear(size, 32)

    def forward(self, x, position_embeddings, unsqueeze_dim=None):
        q, k = (part.view(*x.shape[:-1], -1, 16).transpose(1, 2) for part in (self.q_proj(x), self.k_proj(x)))
        more = {} if unsqueeze_dim is None else {"unsqueeze_dim": unsqueeze_dim}
        return apply_rotary_pos_emb(q, k, *position_embeddings, **more)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.norm, self.mlp = Attention(), Norm(), Gated()

    def forward(self, x, position_embeddings):
        return self.attention(x, position_embeddings), self.mlp(self.norm(x))


def angles(batch=1, tokens=9):
    return torch.randn(batch, tokens, 16), torch.randn(batch, tokens, 16)


def flat(result):
    return [result] if isinstance(result, torch.Tensor) else [leaf for part in result for leaf in flat(part)]


def close(left, right, tolerance=2e-6):
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))
        for a, b in zip(flat(left), flat(right), strict=True)
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# --------------------------------------------------------------------------------------------------- the operators


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(48,), (1, 48), (3, 7, 48), (0, 48), (2, 0, 48)])
def test_norm_is_that_of_float64(shape, dtype):
    x, weight = (3 * torch.randn(shape)).to(dtype), torch.randn(48).to(dtype)
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5) * weight.double()
    with torch.inference_mode():
        y = OPS.rms_norm(x, weight, 1e-5)
    assert y.dtype == dtype
    assert torch.allclose(y.double(), exact, rtol=torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 1))


def test_norm_of_rows_that_are_not_contiguous():
    x, weight = torch.randn(48, 5, 3).permute(2, 1, 0), torch.randn(48)
    wide = torch.randn(5, 100)[:, :48]
    with torch.inference_mode():
        assert torch.equal(OPS.rms_norm(x, weight, 1e-5), OPS.rms_norm(x.contiguous(), weight, 1e-5))
        assert torch.equal(OPS.rms_norm(wide, weight, 1e-5), OPS.rms_norm(wide.contiguous(), weight, 1e-5))


@pytest.mark.parametrize(
    ("x", "weight", "eps", "words"),
    [
        (torch.zeros(2, 4), torch.zeros(5), 1e-5, r"weight must be .* shape \[4\]"),
        (torch.zeros(2, 4), torch.zeros(4, dtype=torch.float16), 1e-5, "x's dtype"),
        (torch.zeros(2, 4), torch.zeros(4, 1), 1e-5, "weight must be"),
        (torch.zeros(()), torch.zeros(1), 1e-5, "a scalar"),
        (torch.zeros(2, 4, dtype=torch.int32), torch.zeros(4), 1e-5, "float32, bfloat16 or float16"),
        (torch.zeros(2, 4), torch.zeros(4), -1.0, "eps must be at least 0"),
        (torch.zeros(2, 4), torch.zeros(4), float("nan"), "eps must be at least 0"),
        (torch.zeros(2, 4, requires_grad=True), torch.zeros(4), 1e-5, "no backward"),
    ],
)
def test_norm_refuses(x, weight, eps, words):
    with pytest.raises(ValueError, match=words):
        OPS.rms_norm(x, weight, eps)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("heads_first", [False, True])
def test_rotation_has_the_bits_of_pytorch(batch, heads_first):
    def heads(count):
        shape = (batch, count, 9, 16) if heads_first else (batch, 9, count, 16)
        x = torch.randn(shape)
        return x if heads_first else x.transpose(1, 2)

    q, k, tables = heads(4), heads(2), angles(1 if heads_first else batch)
    with torch.inference_mode():
        got, expected = OPS.rotary(q, k, *tables), apply_rotary_pos_emb(q, k, *tables)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_rotation_of_any_strides():
    q, k, tables = torch.randn(2, 16, 9, 4).permute(0, 3, 2, 1), torch.randn(2, 2, 18, 16)[:, :, ::2], angles(2)
    with torch.inference_mode():
        got, expected = OPS.rotary(q, k, *tables), apply_rotary_pos_emb(q, k, *tables)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("q", "cos", "sin", "words"),
    [
        ((1, 2, 9, 8), (1, 9, 16), (1, 9, 16), "q must be"),
        ((1, 2, 8, 16), (1, 9, 16), (1, 9, 16), "q must be"),
        ((2, 2, 9, 16), (3, 9, 16), (3, 9, 16), "q must be"),
        ((2, 9, 16), (2, 9, 16), (2, 9, 16), "q must be"),
        ((1, 2, 9, 15), (1, 9, 15), (1, 9, 15), "n even"),
        ((1, 2, 9, 16), (1, 9, 16), (1, 8, 16), "cos and sin must be alike"),
        ((1, 2, 9, 16), (9, 16), (9, 16), "cos and sin must be alike"),
    ],
)
def test_rotation_refuses(q, cos, sin, words):
    with pytest.raises(ValueError, match=words):
        OPS.rotary(torch.zeros(q), torch.zeros(q), torch.zeros(cos), torch.zeros(sin))


def test_mlp_refuses_what_does_not_fit():
    layers = [nn.Linear(48, 80), nn.Linear(48, 64), nn.Linear(80, 48)]
    gate, up, down = (ek.nn.Int8Linear.from_linear(layer) for layer in layers)
    x = torch.zeros(3, 48)
    with torch.inference_mode():
        with pytest.raises(ValueError, match="80 of gate, 64 of up and 80 of down"):
            OPS.gated_mlp(x, gate.packed, up.packed, down.packed, 48, 0, 0, 0)
        with pytest.raises(ValueError, match="out_features must be 48"):
            OPS.gated_mlp(x, gate.packed, gate.packed, down.packed, 47, 0, 0, 0)
        with pytest.raises(ValueError, match="down_format must be a code"):
            OPS.gated_mlp(x, gate.packed, gate.packed, down.packed, 48, 0, 0, 6)
        with pytest.raises(ValueError, match="no packed int4"):
            OPS.gated_mlp(x, gate.packed, gate.packed, down.packed, 48, 0, 0, 1)
        with pytest.raises(ValueError, match="x must end in 48 features"):
            OPS.gated_mlp(x[:, :47], gate.packed, gate.packed, down.packed, 48, 0, 0, 0)
        with pytest.raises(ValueError, match="activation must be a code"):
            OPS.gated_mlp(x, gate.packed, gate.packed, down.packed, 48, 99, 0, 0)


def test_ops_pass_torch_s_own_checks():
    gate, down = (ek.nn.Int8Linear.from_linear(layer) for layer in (nn.Linear(48, 80), nn.Linear(80, 48)))
    x, tables = torch.randn(3, 48), angles(2)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(OPS.rms_norm.default, (x, torch.randn(48), 1e-5), test_utils=checks)
    torch.library.opcheck(
        OPS.rotary.default,
        (torch.randn(2, 9, 4, 16).transpose(1, 2), torch.randn(2, 2, 9, 16), *tables),
        test_utils=checks,
    )
    packed = (gate.packed, gate.packed, down.packed)
    torch.library.opcheck(OPS.gated_mlp.default, (x, *packed, 48, 4, 0, 0), test_utils=checks)


# ------------------------------------------------------------------------------------------------------ the models

SCHEMES = [
    ek.Int8(),
    ek.Int4(32),
    ek.Int8(activations="float"),
    ek.Int4(activations="float"),
    ek.PerLayer({"re:.*down_proj": ek.Int4(32), "_default": ek.Int8()}),
    ek.PerLayer({"re:.*up_proj": ek.Int4(32), "_default": ek.Int8()}),
    ek.PerLayer({"re:.*up_proj": ek.Int4(32), "_default": ek.Int4(64)}),
    ek.PerLayer({"re:.*up_proj": None, "_default": ek.Int8()}),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("tokens", [1, 9, 200])
def test_a_block_gives_what_it_gave(scheme, tokens):
    model = Block().eval()
    ek.convert_(model, scheme)
    fused = copy.deepcopy(model)
    report = ek.fuse_blocks_(fused)
    assert (report.norms, report.mlps, report.rotations) == (("norm",), ("mlp",), ("attention",))
    x, tables = torch.randn(2, tokens, 48), angles(2, tokens)
    with torch.inference_mode():
        # A float's rounding may turn an integer of the activations between the layers.
        assert close(fused(x, tables), model(x, tables), 5e-3)
        assert close(fused(x, tables)[0], model(x, tables)[0])
    assert fused.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(fused.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_mlp_is_one_operator_and_near_its_floats(dtype):
    model = Gated(64, 160).eval()
    dense = copy.deepcopy(model).double()
    model = model.to(dtype)
    ek.convert_(model, ek.Int8())
    wrapped = nn.Sequential(model)
    ek.fuse_blocks_(wrapped)
    x = torch.randn(300, 64).to(dtype)
    with torch.inference_mode(), torch.profiler.profile() as profile:
        y = wrapped(x)
    assert "edgekern::gated_mlp" in {event.name for event in profile.events()}
    assert not any("linear" in event.name for event in profile.events())
    expected = dense(x.double())
    assert (y.double() - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize(
    "act", [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU(), nn.Hardswish()], ids=repr
)
def test_mlps_of_any_activation(act):
    model = nn.Sequential(Gated(act=act)).eval()
    ek.convert_(model, ek.Int8())
    x = torch.randn(5, 48)
    with torch.inference_mode():
        expected = model(x)
        assert ek.fuse_blocks_(model).mlps == ("0",)
        assert close(model(x), expected, 5e-3)


@pytest.mark.parametrize(
    "module", [OneMore(), Clamped(), nn.LayerNorm(48), Norm(48).to("meta")], ids=lambda m: type(m).__name__
)
def test_other_norms_are_left_alone(module):
    model = nn.Sequential(module)
    assert ek.fuse_blocks_(model).norms == ()
    assert model[0] is module


@pytest.mark.parametrize(
    "module",
    [Limited(), Gated(act=nn.Tanh()), Gated(act=nn.Sequential(nn.SiLU(), nn.SiLU()))],
    ids=lambda m: str(m.act_fn),
)
def test_other_mlps_are_left_alone(module):
    model = nn.Sequential(module)
    assert ek.fuse_blocks_(model).mlps == ()
    assert model[0] is module


def test_what_is_watched_or_replaced_is_left_alone():
    hooked, replaced, rotated = Norm(), Gated(), Attention()
    hooked.register_forward_hook(lambda *_: None)
    replaced.forward = lambda x: x
    rotated.register_forward_pre_hook(lambda *_: None)
    model = nn.ModuleList([hooked, replaced, rotated])
    report = ek.fuse_blocks_(model)
    assert report.norms == report.mlps == report.rotations == ()


def test_pytorch_s_own_norm():
    model = nn.Sequential(nn.RMSNorm(48, eps=1e-5)).eval()
    nn.init.normal_(model[0].weight)
    x = torch.randn(3, 48)
    with torch.inference_mode():
        expected = model(x)
        assert ek.fuse_blocks_(model).norms == ("0",)
        assert close(model(x), expected)


def test_a_function_of_the_usual_name_that_does_something_else(monkeypatch):
    monkeypatch.setitem(Attention.forward.__globals__, "apply_rotary_pos_emb", lambda q, k, cos, sin: (q, k))
    assert ek.fuse_blocks_(nn.Sequential(Attention())).rotations == ()


def test_one_module_in_two_places_stays_one():
    norm = Norm()
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})
    ek.fuse_blocks_(model)
    assert isinstance(model["a"], RMSNorm)
    assert model["b"][0] is model["a"]
    assert model["a"].weight is norm.weight


def test_a_second_time_finds_nothing():
    model = Block().eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    report = ek.fuse_blocks_(model)
    assert report == type(report)((), (), (), ())


def test_hooks_on_layers_of_an_mlp_are_called():
    model = nn.Sequential(Gated()).eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    seen = []
    for name in ("gate_proj", "down_proj"):
        handle = model[0].get_submodule(name).register_forward_hook(lambda layer, args, y: seen.append(layer))
        with torch.inference_mode():
            model(torch.randn(2, 48))
        handle.remove()
    assert seen == [model[0].gate_proj, model[0].down_proj]


def test_a_layer_that_is_replaced_later_is_the_one_that_runs():
    model = nn.Sequential(Gated()).eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    model[0].down_proj = nn.Identity()
    with torch.inference_mode():
        assert model(torch.randn(2, 48)).shape == (2, 80)


def test_gradients_go_through_floats():
    model = nn.ModuleDict({"norm": Norm(), "attention": Attention(), "mlp": Gated()})
    x, tables = torch.randn(2, 9, 48), angles()

    def gradient():
        model.zero_grad()
        sum(part.square().sum() for part in (*model["attention"](x, tables), model["mlp"](model["norm"](x)))).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    before = gradient()
    ek.fuse_blocks_(model)
    assert isinstance(model["mlp"], GatedMLP)
    assert close(gradient(), before, 1e-5)


def test_dtypes_that_differ_are_pytorch_s():
    model = nn.Sequential(Norm())
    x = torch.randn(3, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = model(x)
        ek.fuse_blocks_(model)
        assert torch.equal(model(x), expected)
        assert expected.dtype == torch.float32


def test_rotations_with_further_arguments_are_pytorch_s():
    model = Attention().eval()
    x, tables = torch.randn(2, 9, 48), tuple(table.unsqueeze(1) for table in angles(2))
    with torch.inference_mode():
        expected = model(x, tables, unsqueeze_dim=0)
        rotary.rotate_natively_(model)
        assert all(torch.equal(a, b) for a, b in zip(model(x, tables, unsqueeze_dim=0), expected, strict=True))


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_and_pickles(travel):
    model = Block().eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    other = travel(model)
    x, tables = torch.randn(2, 9, 48), angles()
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(flat(other(x, tables)), flat(model(x, tables)), strict=True))
    assert isinstance(other.attention, Attention)
    assert type(other.attention) is type(model.attention) is not Attention
    assert ek.fuse_blocks_(other).rotations == ()


def test_classes_and_functions_of_others_stay_what_they_are():
    before = Attention.forward.__globals__["apply_rotary_pos_emb"]
    model = nn.Sequential(Attention())
    ek.fuse_blocks_(model)
    assert Attention.forward.__globals__["apply_rotary_pos_emb"] is before
    assert type(Attention()) is Attention


def test_back_to_floats():
    model = nn.Sequential(Gated()).eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    ek.dense_(model)
    x = torch.randn(3, 48)
    mlp = model[0]
    with torch.no_grad():
        assert close(model(x), mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)))


def test_under_compile_and_export():
    model = Block().eval()
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
    x, tables = torch.randn(2, 9, 48), angles()
    with torch.no_grad():
        exported = torch.export.export(model, (x, tables)).module()
        assert close(exported(x, tables), model(x, tables), 5e-3)


def test_not_a_module():
    with pytest.raises(TypeError, match="model: expected a torch"):
        ek.fuse_blocks_(3)

"""Layers that have their input in common: one call computes them all, and nothing else is different."""

import copy
import gc
import pickle
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.nn import share_inputs_, shared_input  # noqa: E402

SCHEMES = [ek.Int8(), ek.Int4(group_size=32), ek.Int4(symmetric=True)]


class Attention(nn.Module):
    """Query, key and value of one tensor, or, when there is another, key and value of that."""

    def __init__(self, size=48, heads=16):
        super().__init__()
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, heads, bias=False)
        self.v_proj = nn.Linear(size, heads)

    def forward(self, x, other=None):
        other = x if other is None else other
        return self.q_proj(x), self.k_proj(other), self.v_proj(other)


class Gated(nn.Module):
    def __init__(self, size=48):
        super().__init__()
        self.gate_proj = nn.Linear(size, 2 * size, bias=False)
        self.up_proj = nn.Linear(size, 2 * size, bias=False)
        self.down_proj = nn.Linear(2 * size, size, bias=False)

    def forward(self, x):
        return self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))


@pytest.fixture
def calls(monkeypatch):
    """Names of the ops that compute several layers, in the order they are called."""
    seen = []

    def watched(op):
        def call(*args):
            seen.append(op._schema.name.partition("::")[2])
            return op(*args)

        return call

    monkeypatch.setattr(shared_input, "_OPS", {key: watched(op) for key, op in shared_input._OPS.items()})
    return seen


def pair(module, scheme, seed=0):
    """A converted module, and the same that has shared inputs."""
    torch.manual_seed(seed)
    model = module().eval()
    ek.convert_(model, scheme)
    shared = copy.deepcopy(model)
    return model, shared, share_inputs_(shared)


def same(left, right):
    left, right = ([item] if isinstance(item, torch.Tensor) else item for item in (left, right))
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("shape", [(16, 48), (3, 7, 48), (70, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_the_layers_alone(calls, scheme, shape, dtype):
    model, shared, names = pair(Attention, scheme)
    assert names == (("q_proj", "k_proj", "v_proj"),)
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        for _ in range(3):
            assert same(model(x), shared(x))
    assert calls == [f"{scheme.format}_linear_3"] * 3


@pytest.mark.parametrize("shape", [(48,), (1, 48), (15, 48), (0, 48)])
def test_calls_of_few_rows_go_alone(calls, shape):
    model, shared, _ = pair(Attention, ek.Int8())
    x = torch.randn(shape)
    with torch.inference_mode():
        assert same(model(x), shared(x))
    assert calls == []


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_two_layers(calls, scheme):
    model, shared, names = pair(Gated, scheme)
    assert names == (("gate_proj", "up_proj"),)
    x = torch.randn(2, 9, 48)
    with torch.no_grad():
        assert same(model(x.transpose(0, 1)), shared(x.transpose(0, 1)))  # strided
    assert calls == [f"{scheme.format}_linear_2"]


def test_pruned_layers_of_any_form(calls):
    torch.manual_seed(0)
    model = Attention(128, 64).eval()
    ek.prune_(model, ek.Prune(0.8, "4x4"), progress=False)
    ek.convert_(model, ek.PerLayer({"q_proj": ek.Int8("blocks_4"), "k_proj": ek.Int8("bitmap"), "_default": ek.Int8()}))
    x = torch.randn(40, 128)
    with torch.no_grad():
        alone = model(x)
        share_inputs_(model)
        assert same(alone, model(x))
    assert calls == ["int8_linear_3"]


def test_only_layers_of_one_format_go_together():
    torch.manual_seed(0)
    model = Attention().eval()
    ek.convert_(model, ek.PerLayer({"k_proj": ek.Int4(32), "_default": ek.Int8()}))
    assert share_inputs_(model) == (("q_proj", "v_proj"),)
    assert share_inputs_(model) == ()  # they are shared already
    dense = Attention()
    assert share_inputs_(dense) == ()


def test_layers_whose_activations_stay_floats_go_alone(calls):
    torch.manual_seed(0)
    model = Attention().eval()
    ek.convert_(model, ek.PerLayer({"k_proj": ek.Int8(activations="float"), "_default": ek.Int8()}))
    x = torch.randn(24, 48)
    with torch.no_grad():
        expected = model(x)
        assert share_inputs_(model) == (("q_proj", "v_proj"),)
        assert same(expected, model(x))
    assert calls == ["int8_linear_2"]
    assert pair(Attention, ek.Int4(activations="float"))[2] == ()


def test_layers_that_turn_out_to_have_other_inputs_part(calls):
    model, shared, _ = pair(Attention, ek.Int8())
    x, other = torch.randn(24, 48), torch.randn(26, 48)
    with torch.no_grad():
        for _ in range(3):
            assert same(model(x, other), shared(x, other))
    assert len(calls) == 1
    assert shared.q_proj.shared is shared.v_proj.shared is None


def test_a_tensor_that_is_changed_in_between_is_computed_anew():
    model, shared, _ = pair(Attention, ek.Int8())
    x = torch.randn(24, 48)
    with torch.no_grad():
        shared.q_proj(x)
        x.mul_(2)
        assert torch.equal(shared.k_proj(x), model.k_proj(x))


def test_a_second_call_with_the_same_tensor_computes_again():
    model, shared, _ = pair(Attention, ek.Int8())
    x = torch.randn(24, 48)
    with torch.no_grad():
        assert same(model(x), shared(x))
        for layer in ("v_proj", "k_proj", "v_proj"):
            assert torch.equal(getattr(shared, layer)(x), getattr(model, layer)(x))
        assert same(model(x), shared(x))


def test_nothing_is_held_once_all_results_were_fetched():
    _, shared, _ = pair(Attention, ek.Int8())
    x = torch.randn(24, 48)
    with torch.no_grad():
        shared(x)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_threads_do_not_mix():
    model, shared, _ = pair(Attention, ek.Int8())
    wrong = []

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _ in range(100):
                x = torch.randn(20, 48, generator=generator)
                if not same(model(x), shared(x)):
                    wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert shared.q_proj.shared is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_layer_by_layer(copied):
    model, shared, _ = pair(Attention, ek.Int8())
    other = copied(shared)
    assert other.q_proj.shared is None
    assert shared.q_proj.shared is not None
    x = torch.randn(24, 48)
    with torch.no_grad():
        assert same(model(x), other(x))


def test_state_is_each_layers_own():
    model, shared, _ = pair(Attention, ek.Int8(), seed=0)
    others, _, _ = pair(Attention, ek.Int8(), seed=1)
    assert shared.state_dict().keys() == model.state_dict().keys()
    shared.load_state_dict(others.state_dict())
    x = torch.randn(24, 48)
    with torch.no_grad():
        assert same(others(x), shared(x))


def test_back_to_floats():
    model, shared, _ = pair(Attention, ek.Int8())
    held = shared.k_proj
    ek.dense_(shared)
    assert held.shared is None
    x = torch.randn(24, 48)
    with torch.no_grad():
        wanted = ek.dense_(model) and model(x)
        assert same(wanted, shared(x))


def test_inputs_that_require_grad_are_refused():
    _, shared, _ = pair(Attention, ek.Int8())
    with pytest.raises(ValueError, match="no backward"):
        shared(torch.randn(24, 48, requires_grad=True))


def test_export_and_compile_see_layers_one_by_one():
    model, shared, _ = pair(Attention, ek.Int8())
    x = torch.randn(24, 48)
    with torch.no_grad():
        exported = torch.export.export(shared, (x,))
        names = [node.target.name() for node in exported.graph.nodes if node.op == "call_function"]
        assert names == ["edgekern::int8_linear"] * 3
        assert same(model(x), exported.module()(x))


@pytest.mark.parametrize("count", [2, 3])
def test_the_ops_pass_torchs_own_checks(count):
    model = Attention().eval()
    ek.convert_(model, ek.Int8())
    layers = [model.q_proj, model.k_proj, model.v_proj][:count]
    op = getattr(torch.ops.edgekern, f"int8_linear_{count}").default
    args = (torch.randn(4, 48), *(each.packed for each in layers), *(each.out_features for each in layers), 0)
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ValueError, match="must end in 48 features"):
        op(torch.randn(4, 47), *args[1:])
    with pytest.raises(ValueError, match="out_features must be 16"):
        op(*args[:-2], 17, 0)
    with pytest.raises(ValueError, match="x and packed must be"):
        op(torch.randn(4, 48, device="meta"), *args[1:])

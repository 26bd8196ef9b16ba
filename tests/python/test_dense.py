"""The way back, explain, and PyTorch's fused transformer path."""

from collections import Counter

import pytest
import torch
from small_models import Block, OwnForward, native_names
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekern import Int8, convert_, dense_, explain
from edgekern.nn import FusedLinear, Int8Linear


def test_explain_before_conversion():
    model = nn.Sequential(nn.Linear(4, 4), OwnForward(4, 4))
    assert explain(model).rows[0].reason == "not converted"
    assert "forward of its own" in explain(model).rows[1].reason
    assert explain(nn.Linear(4, 4)).rows[0].shape == (4, 4)
    with pytest.raises(TypeError, match="model: expected"):
        explain("model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_gives_back_the_dtype_and_the_rounded_values(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.LayerNorm(16)).to(dtype).eval()
    biases = model[0].up.bias.clone()
    convert_(model, Int8())
    weights = [model[0].up.weight, model[0].down.weight]
    report = dense_(model)
    assert native_names(model) == []
    assert [type(layer) for layer in (model[0].up, model[0].down)] == [nn.Linear, nn.Linear]
    assert not model[0].up.training
    assert torch.equal(model[0].up.weight, weights[0])
    assert torch.equal(model[0].down.weight, weights[1])
    assert torch.equal(model[0].up.bias, biases)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model[0].down.bias is None
    assert [(row.name, row.format) for row in report.converted] == [("0.up", "dense"), ("0.down", "dense")]
    assert report.bytes_after == (2 * 16 * 64 + 64) * dtype.itemsize
    assert {row.reason for row in explain(model)} == {"not converted"}


def test_dense_can_be_trained_again():
    model = nn.Sequential(Block())
    convert_(model, Int8())
    dense_(model)
    model(torch.randn(2, 16)).sum().backward()
    assert model[0].up.weight.grad is not None


def test_dense_of_a_fused_activation_is_a_fused_layer():
    model = nn.Sequential(Int8Linear.from_linear(FusedLinear(4, 4, activation="relu")), Int8Linear(4, 4))
    weight = model[0].weight
    dense_(model)
    assert [type(layer) for layer in model] == [FusedLinear, nn.Linear]
    assert model[0].activation == "relu"
    assert torch.equal(model[0].weight, weight)


def test_dense_of_a_dense_model_is_nothing():
    assert len(dense_(nn.Sequential(nn.Linear(4, 4)))) == 0


# ------------------------------------------------------------------------------------- the fused transformer path


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def calls(model, *args, **kwargs):
    with torch.inference_mode(), Calls() as mode:
        y = model(*args, **kwargs)
    return y, mode.seen


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
def test_transformer_encoder_runs_native_layers_not_the_fused_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    fused = "aten::_transformer_encoder_layer_fwd"
    expected, seen = calls(model, x)
    assert seen[fused] == 2
    report = convert_(model, Int8())
    assert {row.name.rpartition(".")[2] for row in report.converted} == {"linear1", "linear2"}
    assert {row.reason for row in report.skipped} == {"nn.MultiheadAttention reads its weight and never calls it"}
    y, seen = calls(model, x)
    assert (seen[fused], seen["edgekern::int8_linear"]) == (0, 4)
    torch.testing.assert_close(y, expected, atol=0.05, rtol=0.05)
    padded, seen = calls(model, x, src_key_padding_mask=padding)
    assert (seen[fused], seen["edgekern::int8_linear"]) == (0, 4)
    torch.testing.assert_close(padded[0], y[0], atol=1e-4, rtol=1e-4)
    dense_(model)
    assert calls(model, x)[1][fused] == 2
    assert model.use_nested_tensor
    assert calls(model, x, src_key_padding_mask=padding)[1][fused] == 2

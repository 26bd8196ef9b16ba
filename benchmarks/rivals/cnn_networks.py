"""The networks of benchmarks/cnn.py, 224x224 RGB to 1000 classes: EfficientNet-lite0, ResNets and MobileNets.

EfficientNet-lite0 comes out of a package with its ImageNet weights. The others are written here, layer for layer and
name for name as torchvision has them; their weights are random, which costs no kernel more or less time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekern.evaluate.images import efficientnet_lite0

EFFICIENTNET = "efficientnet-lite0"
CLASSES = 1000
# (expansion, channels out, repeats, stride of the first): table 2 of https://arxiv.org/abs/1801.04381
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# (kernel, expanded to, channels out, squeezes, hardswish, stride): table 1 of https://arxiv.org/abs/1905.02244
MOBILENET_V3_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def build(name: str) -> nn.Module:
    """The network called so, in eval mode; EfficientNet-lite0 with its weights.

    Raises:
        KeyError: there is none called so.
        MissingDataError: its package is absent; the message says what to install.
    """
    return BUILDERS[name]().eval()


def settle_(network: nn.Module, images: Tensor) -> None:
    """Gives random weights a sensible scale: the normalisations take the statistics of images [count, 3, 224, 224]."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of what is seen, not a decaying one
    with torch.no_grad():
        network.train()(images)
    network.eval()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a way past them, which is a 1x1 one where the shapes differ."""

    widens = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _way_past(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += past
        return self.relu(x)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, beside a way past them."""

    widens = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _way_past(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += past
        return self.relu(x)


def _way_past(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Where x can be added as it is, None."""
    if stride == 1 and channels == out_channels:
        return None
    skip = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(skip, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """https://arxiv.org/abs/1512.03385, table 1: so many blocks in each of four stages."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], repeats: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(repeats):
            width = 64 * 2**stage
            blocks = []
            for i in range(count):
                blocks.append(block(channels, width, 2 if stage and not i else 1))
                channels = block.widens * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _conv_norm(
    channels: int, out_channels: int, kernel: int, stride: int, groups: int, *then: nn.Module
) -> nn.Sequential:
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *then)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to fewer; added to its input where the shapes are the same."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        first = [_conv_norm(channels, wide, 1, 1, 1, nn.ReLU6(inplace=True))] if expansion != 1 else []
        self.conv = nn.Sequential(
            *first,
            _conv_norm(wide, wide, 3, stride, wide, nn.ReLU6(inplace=True)),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """https://arxiv.org/abs/1801.04381, of width 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 32, 3, 2, 1, nn.ReLU6(inplace=True))]
        channels = 32
        for expansion, out_channels, repeats, stride in MOBILENET_STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(channels, out_channels, 1 if i else stride, expansion))
                channels = out_channels
        self.features = nn.Sequential(*layers, _conv_norm(channels, 1280, 1, 1, 1, nn.ReLU6(inplace=True)))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class SqueezeExcitation(nn.Module):
    """Weighs channels by what their means over the image say: https://arxiv.org/abs/1709.01507."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A quarter, as the nearest multiple of 8 that takes no more than a tenth from it.
        fewer = next(
            n for n in ((channels // 4 + 4) // 8 * 8, (channels // 4 + 12) // 8 * 8) if n >= 0.9 * (channels // 4)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, fewer, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(fewer, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class InvertedResidualV3(nn.Module):
    """As InvertedResidual, with a choice of activations, and channels weighed before the last convolution."""

    def __init__(
        self, channels: int, kernel: int, wide: int, out_channels: int, squeezes: bool, hardswish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hardswish else nn.ReLU
        layers = [_conv_norm(channels, wide, 1, 1, 1, activation(inplace=True))] if wide != channels else []
        layers.append(_conv_norm(wide, wide, kernel, stride, wide, activation(inplace=True)))
        squeeze = [SqueezeExcitation(wide)] if squeezes else []
        self.block = nn.Sequential(*layers, *squeeze, _conv_norm(wide, out_channels, 1, 1, 1))
        self.adds = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.adds else self.block(x)


class MobileNetV3(nn.Module):
    """https://arxiv.org/abs/1905.02244, large, of width 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 16, 3, 2, 1, nn.Hardswish(inplace=True))]
        channels = 16
        for kernel, wide, out_channels, squeezes, hardswish, stride in MOBILENET_V3_BLOCKS:
            layers.append(InvertedResidualV3(channels, kernel, wide, out_channels, squeezes, hardswish, stride))
            channels = out_channels
        layers.append(_conv_norm(channels, 960, 1, 1, 1, nn.Hardswish(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(960, 1280), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1280, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    EFFICIENTNET: lambda: efficientnet_lite0().model,
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2)),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3)),
    "mobilenetv2": MobileNetV2,
    "mobilenetv3": MobileNetV3,
}

"""The networks of benchmarks/cnn.py, 224x224 RGB to 1000 classes: EfficientNet-lite0, ResNet-18 and MobileNetV2.

EfficientNet-lite0 comes out of a package with its ImageNet weights. The others are written here, layer for layer and
name for name as torchvision has them; their weights are random, which costs no kernel more or less time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekern.evaluate.images import efficientnet_lite0

EFFICIENTNET, RESNET, MOBILENET = NETWORKS = ("efficientnet-lite0", "resnet18", "mobilenetv2")
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


def build(name: str) -> nn.Module:
    """The network called so, in eval mode; EfficientNet-lite0 with its weights.

    Raises:
        KeyError: there is none called so.
        MissingDataError: its package is absent; the message says what to install.
    """
    return {EFFICIENTNET: lambda: efficientnet_lite0().model, RESNET: ResNet18, MOBILENET: MobileNetV2}[name]().eval()


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

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            skip = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += past
        return self.relu(x)


class ResNet18(nn.Module):
    """https://arxiv.org/abs/1512.03385, table 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _conv_norm_relu6(channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to fewer; added to its input where the shapes are the same."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers: list[nn.Module] = [_conv_norm_relu6(channels, wide, 1)] if expansion != 1 else []
        layers += [
            _conv_norm_relu6(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """https://arxiv.org/abs/1801.04381, of width 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu6(3, 32, 3, 2)]
        channels = 32
        for expansion, out_channels, repeats, stride in MOBILENET_STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(channels, out_channels, 1 if i else stride, expansion))
                channels = out_channels
        self.features = nn.Sequential(*layers, _conv_norm_relu6(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))

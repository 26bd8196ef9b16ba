"""The task all convolution subjects share: y = conv(x, W) + b, float32 in and float32 out, and its correct answer.

Needs NumPy alone, as ONNX Runtime and OpenVINO have nothing else.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from harness.subject import Subject
from numpy.typing import NDArray

from rivals.linear_layer import Bound

FloatArray = NDArray[np.float32]

# |y - exact| / |exact| over the whole output. Eight bits cost 1 to 2 % on these normal variates.
LARGEST_ERROR = 0.1


class Conv(NamedTuple):
    """One convolution and its input. Zeros around the image are as many on each side."""

    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    groups: int
    size: int  # height and width of the input
    batch: int

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-adds of a call, zeros at the edges among them."""
        pixels = self.batch * self.out_size**2
        return pixels * self.out_channels * self.in_channels // self.groups * self.kernel**2


class Weights(NamedTuple):
    """Weight [O, I / groups, kernel, kernel] and bias [O]."""

    weight: FloatArray
    bias: FloatArray


def random_weights(conv: Conv) -> Weights:
    """The same for every subject, of outputs about as large as the inputs."""
    rng = np.random.default_rng(list(conv))
    shape = (conv.out_channels, conv.in_channels // conv.groups, conv.kernel, conv.kernel)
    weight = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape[1:])))
    return Weights(weight, rng.standard_normal(conv.out_channels, np.float32))


def random_images(conv: Conv) -> FloatArray:
    """Images [batch, I, size, size], the same for every subject."""
    shape = (conv.batch, conv.in_channels, conv.size, conv.size)
    return np.random.default_rng([*conv, 1]).standard_normal(shape, np.float32)


def convolve(x: FloatArray, weights: Weights, conv: Conv) -> FloatArray:
    """The answer, [batch, O, out_size, out_size]."""
    edge = (conv.padding, conv.padding)
    padded = np.pad(x, ((0, 0), (0, 0), edge, edge))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (conv.kernel, conv.kernel), axis=(2, 3))
    windows = windows[:, :, :: conv.stride, :: conv.stride]  # [batch, I, out_size, out_size, kernel, kernel]
    inputs, outputs = np.split(windows, conv.groups, axis=1), np.split(weights.weight, conv.groups)
    parts = [np.tensordot(image, weight, ((1, 4, 5), (1, 2, 3))) for image, weight in zip(inputs, outputs, strict=True)]
    return np.concatenate(parts, axis=3).transpose(0, 3, 1, 2) + weights.bias.reshape(-1, 1, 1)


class ConvSubject(Subject):
    """A library's convolution layer. Subclasses build one and bind it to its images."""

    def weights(self, conv: Conv) -> Weights:
        """Those that the layer has."""
        return random_weights(conv)

    @abstractmethod
    def bind(self, conv: Conv, weights: Weights, x: FloatArray) -> Bound:
        """A layer tied to the images x; what is read has the shape of the exact answer."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Task: the fields of Conv. Raises ArithmeticError on a wrong answer."""
        self.calls = []
        conv = Conv(**{name: task[name] for name in Conv._fields})
        weights, x = self.weights(conv), random_images(conv)
        exact = convolve(x, weights, conv)
        bound = self.bind(conv, weights, x)
        bound.call()
        error = float(np.linalg.norm(bound.read() - exact) / np.linalg.norm(exact))
        if not error <= LARGEST_ERROR:
            raise ArithmeticError(f"the answer is off by {error:.1%} (allowed {LARGEST_ERROR:.0%})")
        self.calls = [bound.call]
        return {"relative_error": error}

"""One convolution in torch: float32, and edgekern's int8 layer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from rivals.cnn_torch import settings_of
from rivals.conv_layer import Conv, ConvSubject, FloatArray, Weights, random_weights
from rivals.linear_layer import Bound

SPARSITY, PATTERN = 0.8, "4x4"  # of the layers that are pruned


def torch_conv(conv: Conv, weights: Weights) -> nn.Conv2d:
    """An nn.Conv2d with its own copy of the weights."""
    layer = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.padding, groups=conv.groups, device="meta"
    ).to_empty(device="cpu")
    layer.load_state_dict({"weight": torch.from_numpy(weights.weight), "bias": torch.from_numpy(weights.bias)})
    return layer.eval()


class TorchConv(ConvSubject):
    """nn.Conv2d in float32, channels_last (oneDNN)."""

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    order: torch.memory_format = torch.channels_last

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def session(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def convert(self, layer: nn.Conv2d, images: torch.Tensor) -> nn.Module:
        """What is timed, from the float32 layer. `images` are for whoever needs data."""
        return layer.to(memory_format=self.order)

    def bind(self, conv: Conv, weights: Weights, x: FloatArray) -> Bound:
        with torch.inference_mode(False), torch.no_grad():
            images = torch.from_numpy(x).to(memory_format=self.order)
            layer = self.convert(torch_conv(conv, weights), images)
        return Bound(partial(layer, images), lambda: layer(images).numpy())


class EdgekernConv(TorchConv):
    """Converted in place, by the defaults of edgekern.Int8; images in the order that its argument names.

    With "static-" before it, the range of the images is found before they are timed.
    """

    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads)
        self.static, self.order = settings_of(kind)
        self.form = ""

    def convert(self, layer: nn.Conv2d, images: torch.Tensor) -> nn.Module:
        import edgekern as ek

        model = nn.Sequential(layer)
        if self.static:
            ek.convert_(model, ek.Int8(activations="static"), data=[images], progress=False)
        else:
            ek.convert_(model, ek.Int8())
        if not isinstance(model[0], ek.nn.Int8Conv2d):
            raise TypeError(f"expected convert_ to give an Int8Conv2d, got {type(model[0]).__name__}")
        self.form = model[0].choice.form
        return model[0]

    def prepare(self, **task: Any) -> dict[str, Any]:
        import edgekern as ek

        return {**super().prepare(**task), "isa": ek.kernels.default_isa()}


class EdgekernPrunedConv(EdgekernConv):
    """The same with 80 % of the weights pruned, in blocks of 4x4, and in the form that `convert_` finds fastest."""

    def weights(self, conv: Conv) -> Weights:
        import edgekern as ek

        whole = random_weights(conv)
        with torch.inference_mode(False):  # whose tensors cannot be changed
            model = nn.Sequential(torch_conv(conv, whole))
            if conv.groups == 1:
                ek.prune_(model, ek.Prune(SPARSITY, pattern=PATTERN), progress=False)
            return Weights(model[0].weight.detach().numpy(), whole.bias)

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Also says in which form the layer is packed."""
        return {**super().prepare(**task), "form": self.form}

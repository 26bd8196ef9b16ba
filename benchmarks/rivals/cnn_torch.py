"""Convolutional networks in torch: float32, compiled, and with edgekern's layers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rivals.cnn_layers import describe_layers, layers_of, time_layers
from rivals.cnn_networks import build
from rivals.cnn_task import IMAGES, OTHER, WEIGHTS, Bound, CnnSubject, FloatArray

ORDERS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}


def settings_of(kind: str) -> tuple[bool, torch.memory_format]:
    """Of one of edgekern's subjects, "nhwc" or "static-nhwc": whether ranges are static, and the images' order."""
    ranges, _, order = kind.rpartition("-")
    return ranges == "static", ORDERS[order]


def load_network(folder: Path, network: str) -> nn.Module:
    """The network with the weights that everybody starts from."""
    model = build(network)
    model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return model


def fold_norms_(model: nn.Module) -> None:
    """Each batch normalisation goes into the convolution that is registered right before it, by torch's own fold.

    In these networks that is also the one it is called on; a network where it were not would give other logits.
    """
    for parent in model.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())


class TorchCnn(CnnSubject):
    """float32 in eager mode, channels_last, normalisations folded."""

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    order: torch.memory_format = torch.channels_last

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        self._model = nn.Module()

    def session(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def convert(self, model: nn.Module, images: torch.Tensor) -> nn.Module:
        """What is timed, from the float32 network, which may change. `images` are for whoever needs data."""
        fold_norms_(model)
        return model.to(memory_format=self.order)

    def load(self, folder: Path, network: str, batch: int) -> Bound:
        with torch.inference_mode(False), torch.no_grad():  # parameters made under inference_mode cannot be folded
            images = torch.from_numpy(np.load(folder / IMAGES))
            self._model = self.convert(load_network(folder, network), images)
        x = torch.empty(batch, *images.shape[1:]).to(memory_format=self.order)

        def write(images: FloatArray) -> None:
            x.copy_(torch.from_numpy(images))

        return Bound(write, partial(self._model, x), lambda: self._model(x).numpy())


class TorchCompiledCnn(TorchCnn):
    """The same through torch.compile, its weights frozen: convolutions and activations become one."""

    def convert(self, model: nn.Module, images: torch.Tensor) -> nn.Module:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        torch.compiler.reset()  # of what was compiled for another network or batch
        return torch.compile(super().convert(model, images))


class EdgekernCnn(TorchCnn):
    """Fused, every convolution and linear layer int8; images in the order that its argument names.

    With "static-" before it, ranges are found once, by all the images, and convolutions hand on eight bits.
    """

    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch")

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads)
        self.static, self.order = settings_of(kind)

    def convert(self, model: nn.Module, images: torch.Tensor) -> nn.Module:
        import edgekern as ek

        ek.fuse_(model)
        if self.static:
            ek.convert_(model, ek.Int8(activations="static"), data=images.split(1), progress=False)
            ek.link_(model)
        else:
            ek.convert_(model, ek.Int8())
        return model

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Also says which kernels run, how many layers are int8, and what every layer is."""
        import edgekern as ek

        facts = super().prepare(**task)
        native = sum(isinstance(layer, ek.nn.NativeLayer) for layer in layers_of(self._model).values())
        layers = describe_layers(self._model, self.calls[0])
        described = {name: layer._asdict() for name, layer in layers.items()}
        return {**facts, "isa": ek.kernels.default_isa(), "int8_layers": native, "layers": described}

    def profile(self) -> dict[str, float]:
        """Seconds of each layer by name, and of what no layer takes."""
        seconds, other = time_layers(self._model, self.calls[0])
        return {**seconds, OTHER: other}


class EdgekernFrozenCnn(EdgekernCnn):
    """The same with static ranges, frozen: its convolutions run in regions, so there is no time of each layer."""

    uint8_sums = False

    def convert(self, model: nn.Module, images: torch.Tensor) -> nn.Module:
        import edgekern as ek

        return ek.freeze(super().convert(model, images), images[:1], uint8_sums=self.uint8_sums)

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Also says which kernels run, how many layers are int8, and in how many regions convolutions run."""
        import edgekern as ek

        facts = CnnSubject.prepare(self, **task)
        rows = self._model.report.rows
        native = sum(isinstance(layer, ek.nn.NativeLayer) for layer in layers_of(self._model).values())
        frozen = [row.region for row in rows if row.region]
        layers = {"int8_layers": native + len(frozen), "regions": len(set(frozen))}
        return {**facts, "isa": ek.kernels.default_isa(), **layers}


class EdgekernFrozenUint8Cnn(EdgekernFrozenCnn):
    """And its sums add uint8, as the rivals' do."""

    uint8_sums = True

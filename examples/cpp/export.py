"""Saves a stack of int8 layers for run_stack, an input, and the output that Python computes for it.

python export.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import edgekern as ek
from edgekern.nn import Int8Linear


def activation_name(module: nn.Module) -> str | None:
    """What Int8Linear calls an activation module; None for any other module."""
    if isinstance(module, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}[module.approximate]
    return {nn.ReLU: "relu", nn.SiLU: "silu"}.get(type(module))


def fuse(stack: nn.Sequential) -> nn.Sequential:
    """The stack with each activation inside the layer before it.

    There it costs no pass over memory, and the checkpoint records it: a module without tensors leaves no trace in one.
    So any other module between the layers is refused.
    """
    layers: list[Int8Linear] = []
    for name, module in stack.named_children():
        activation = activation_name(module)
        if isinstance(module, Int8Linear):
            layers.append(module)
        elif activation and layers and layers[-1].activation == "none":
            plain = layers[-1]
            layers[-1] = Int8Linear(plain.in_features, plain.out_features, plain.bias is not None, activation)
            layers[-1].load_state_dict(plain.state_dict())
        else:
            raise TypeError(f"module {name!r}: expected int8 layers, each with at most one activation; got {module}")
    return nn.Sequential(*layers)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(60, 250),
        nn.ReLU(),
        nn.Linear(250, 130, bias=False),
        nn.GELU(),
        nn.Linear(130, 100),
        nn.SiLU(),
        nn.Linear(100, 10),
    ).eval()
    x = torch.randn(16, 60)

    ek.convert_(model, ek.Int8())
    model = fuse(model)
    with torch.inference_mode():
        y = model(x)

    ek.save(model, folder / "model", overwrite=True)
    save_file({"x": x}, folder / "input.safetensors")
    save_file({"y": y}, folder / "expected.safetensors")
    print(f"{folder}: model, input.safetensors {list(x.shape)}, expected.safetensors {list(y.shape)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

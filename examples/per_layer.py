"""Int8 for most of a model, float for the layers that need it; then what became of each layer."""

import torch
from torch import nn

import edgekern as ek


class Block(nn.Module):
    """A residual MLP block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(256) for _ in range(4)), nn.Linear(256, 10)).eval()
    x = torch.randn(32, 256)
    with torch.inference_mode():
        expected = model(x)

    config = ek.PerLayer(
        {
            "4": None,  # by exact name: the classifier stays float
            r"re:0\..*": None,  # by pattern: so does the first block
            "_default": ek.Int8(),
        }
    )
    print(ek.convert_(model, config))

    with torch.inference_mode():
        error = (model(x) - expected).norm() / expected.norm()
    print(f"relative error of the output: {error:.4f}")


if __name__ == "__main__":
    main()

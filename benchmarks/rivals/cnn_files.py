"""The files that networks are read from, made once: images, weights, what float32 says, and ONNX graphs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from edgekern.evaluate.images import ImageClassifier, imagenet_photographs
from rivals.cnn_networks import EFFICIENTNET, build, settle_
from rivals.cnn_task import BATCH_AXIS, GRAPHS, IMAGES, LOGITS, WEIGHTS
from rivals.cnn_torch import fold_norms_, load_network


def make_folder(folder: Path, network: str) -> None:
    """Writes images, weights and float32's logits of the network; nothing when they are there."""
    if (folder / LOGITS).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build(network)
    images = ImageClassifier(model).pixels(imagenet_photographs())
    if network != EFFICIENTNET:
        settle_(model, images)
    np.save(folder / IMAGES, images.numpy())
    torch.save(model.state_dict(), folder / WEIGHTS)
    with torch.inference_mode():
        np.save(folder / LOGITS, model(images).numpy())


def make_graphs(folder: Path, network: str) -> None:
    """Writes the network as ONNX, in float32 and statically quantised by its images; nothing when they are there.

    The float32 graph has been through ONNX Runtime's preparation for quantising, which puts what it can into the
    convolutions. Everybody who reads ONNX reads these.
    """
    if all((folder / name).exists() for name in GRAPHS.values()):
        return
    from onnxruntime.quantization import quant_pre_process

    from rivals.onnx_static import quantize

    model = load_network(folder, network)
    fold_norms_(model)
    images = np.load(folder / IMAGES)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        exported = Path(scratch) / "exported.onnx"
        torch.onnx.export(
            model,
            (torch.from_numpy(images[:2]),),
            exported,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        made = {kind: Path(scratch) / name for kind, name in GRAPHS.items()}
        quant_pre_process(exported, made["fp32"])
        quantize(made["fp32"], made["int8-static"], np.split(images, len(images)))
        for path in made.values():
            path.replace(folder / path.name)

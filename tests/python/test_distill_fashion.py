"""The example that distils on Fashion-MNIST: its parts, on made-up images; and how its files are read."""

import gzip
import struct
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")  # edgekern.evaluate imports it
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import distill_fashion

from edgekern.evaluate import MissingDataError
from edgekern.evaluate.fashion import FASHION_MNIST, load_fashion_mnist, read_idx
from edgekern.nn import Int8Conv2d

pytestmark = pytest.mark.usefixtures("one_thread")


def idx(sizes, code=8):
    count = 1
    for size in sizes:
        count *= size
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes) + bytes(i % 7 for i in range(count))


def put(folder, images=(5, 28, 28), labels=(5,)):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels))


def test_files_are_read(tmp_path):
    put(tmp_path)
    images, classes = load_fashion_mnist(True, tmp_path)
    assert images.shape == (5, 1, 28, 28)
    assert classes.tolist() == [0, 1, 2, 3, 4]
    assert images[0, 0, 0, :3].tolist() == pytest.approx([(i / 255 - 0.2860) / 0.3530 for i in range(3)], abs=1e-6)


def test_what_is_wrong_with_files_is_said(tmp_path):
    with pytest.raises(MissingDataError, match="apt-get install dataset-fashion-mnist"):
        load_fashion_mnist(True, tmp_path)
    put(tmp_path, labels=(4,))
    with pytest.raises(ValueError, match=r"\[5, 28, 28\] images do not go with \[4\] labels"):
        load_fashion_mnist(True, tmp_path)
    path = tmp_path / "file"
    for data, message in {
        idx((2, 3))[:-1]: r"expected \[2, 3\] bytes after the first 12, got 5",
        idx((2, 3), code=13): "no idx file of bytes; it begins with 00000d02",
        b"": "no idx file of bytes",
        idx((2, 3))[:6]: "expected",
    }.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_idx(path)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs apt-get install dataset-fashion-mnist")
def test_the_real_files():
    images, classes = load_fashion_mnist(train=False)
    assert images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(classes).tolist() == [1000] * 10
    assert abs(images.mean().item()) < 0.02
    assert images.std().item() == pytest.approx(1, abs=0.02)


def test_the_student_is_small():
    counts = [
        distill_fashion.multiplications(model)
        for model in (distill_fashion.make_teacher(), distill_fashion.make_student(0))
    ]
    assert counts[1] * 8 <= counts[0]


def test_the_parts_work_together(tmp_path):
    torch.manual_seed(0)
    classes = torch.arange(400) % 10
    images = 0.3 * torch.randn(400, 1, 28, 28)
    images += torch.nn.functional.one_hot(classes, 28)[:, None, :, None]  # a bright line, at the class's height
    data = distill_fashion.Images(images, classes, seed=1)
    assert [len(batch[1]) for batch in data(0)] == [128] * 3
    assert all(
        torch.equal(a, b) for one, other in zip(data(3), data(3), strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(next(data(0))[1], next(data(1))[1])
    teacher, effort = distill_fashion.make_student(9), distill_fashion.Effort(student=15, pruned=6, seeds=1)
    distill_fashion.train(teacher, data, 8, distill_fashion.by_labels, tmp_path)
    assert distill_fashion.accuracy(teacher, (images, classes)) > 60
    row = distill_fashion.one_seed(teacher, data, (images, classes), effort, tmp_path)
    assert row["zeros"] == pytest.approx(0.8, abs=0.02)
    assert min(row["distilled"], row["pruned"], row["int8"]) > 30  # 10 is chance
    assert abs(row["pruned"] - row["int8"]) < 5
    assert sum(isinstance(module, Int8Conv2d) for module in row["model"].modules()) == 4
    assert [*tmp_path.iterdir()] == []

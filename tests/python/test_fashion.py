"""The examples on Fashion-MNIST: their parts, on made-up images; how its files are read; and the committed results."""

import gzip
import json
import struct
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")  # edgekern.evaluate imports it
ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "examples"), str(ROOT / "scripts")]

import distill_fashion  # noqa: E402
import fashion  # noqa: E402
import prune_fashion  # noqa: E402
import render_fashion  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.evaluate import MissingDataError  # noqa: E402
from edgekern.evaluate.fashion import FASHION_MNIST, load_fashion_mnist, read_idx  # noqa: E402
from edgekern.nn import Int8Conv2d  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
RESULTS = ROOT / "benchmarks/results"


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
    assert fashion.multiplications(fashion.small(0)) * 8 <= fashion.multiplications(fashion.large(0))


def test_counting_changes_nothing_in_a_network_that_trains():
    model = fashion.small(0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert fashion.multiplications(model) == 1_099_216
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def made_up(count=400):
    """Noise with a bright line, at the height of its class."""
    torch.manual_seed(0)
    classes = torch.arange(count) % 10
    images = 0.3 * torch.randn(count, 1, 28, 28)
    return images + torch.nn.functional.one_hot(classes, 28)[:, None, :, None], classes


def test_images_come_with_the_numbers_of_the_teachers_answers(tmp_path):
    images, classes = made_up()
    data = fashion.Images(images, classes, seed=1)
    assert [len(batch[1]) for batch in data(0)] == [128] * 3
    assert all(
        torch.equal(*pair) for one, other in zip(data(3), data(3), strict=True) for pair in zip(one, other, strict=True)
    )
    assert not torch.equal(next(data(0))[1], next(data(1))[1])
    teacher = fashion.small(9).eval()
    known = fashion.answers(teacher, images, tmp_path)
    shown, named, numbers = next(data(0))
    assert torch.equal(named, classes[numbers % 400])
    assert 30 < int((numbers >= 400).sum()) < 98  # about half of 128 are mirrored
    values, indices = known.rows(numbers)
    with torch.no_grad():
        wanted = teacher(shown).gather(1, indices.long())
    torch.testing.assert_close(values.float(), wanted, rtol=2e-3, atol=2e-3)


def test_a_teacher_is_asked_again_only_where_it_would_say_something_else(tmp_path, monkeypatch):
    images, classes = made_up()
    teacher = fashion.small(9).eval()
    first = fashion.answers(teacher, images, tmp_path).rows(torch.arange(400))[0]
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "forward", None)
        assert torch.equal(fashion.answers(teacher, images, tmp_path).rows(torch.arange(400))[0], first)
    assert len(fashion.answers(teacher, images[:50], tmp_path)) == 100
    fashion.train(teacher, fashion.Images(images, classes, 1), 1, fashion.by_labels, tmp_path / "teacher.pt")
    assert not torch.equal(fashion.answers(teacher, images, tmp_path).rows(torch.arange(400))[0], first)


def test_a_student_is_taught_pruned_and_converted(tmp_path):
    images, classes = made_up()
    data = fashion.Images(images, classes, seed=1)
    teacher, effort = fashion.small(9), distill_fashion.Effort(student=12, pruned=6, seeds=1)
    fashion.train(teacher, data, 8, fashion.by_labels, tmp_path / "teacher.pt")
    assert fashion.accuracy(teacher, (images, classes)) > 60
    known = fashion.answers(teacher, images, tmp_path)
    row, student = distill_fashion.one_seed(known, data, (images, classes), effort, tmp_path)
    assert row["zeros"] == pytest.approx(0.8, abs=0.02)
    assert min(row["distilled"], row["pruned"], row["int8"]) > 30  # 10 is chance
    assert abs(row["pruned"] - row["int8"]) < 5
    assert sum(isinstance(module, Int8Conv2d) for module in student.modules()) == 4
    again, _ = distill_fashion.one_seed(known, data, (images, classes), effort, tmp_path)
    assert again == row  # from the checkpoints
    models = fashion.to_time("teacher", teacher, {"student": student}, images)
    assert [*models] == ["teacher", "teacher, norms folded", "student"]
    times = fashion.latencies(models, images, seconds=0.1)
    assert [*times] == ["1 image", "64 images"]
    assert all(min(found.values()) > 0 and [*found] == [*models] for found in times.values())


def test_a_network_is_pruned_in_blocks(tmp_path):
    images, classes = made_up()
    data, effort = fashion.Images(images, classes, seed=1), prune_fashion.Effort(pruned=6, seeds=1)
    dense = fashion.train(fashion.small(9), data, 8, fashion.by_labels, tmp_path / "dense.pt")
    row, converted = prune_fashion.one_seed(dense, data, (images, classes), effort, tmp_path)
    assert row["zeros"] == pytest.approx(0.8, abs=0.02)
    assert min(row["pruned"], row["int8"]) > 30
    assert (dense.get_submodule("2.0").weight != 0).all()  # it was a copy that was pruned
    ek.dense_(converted)
    blocks = converted.get_submodule("2.0").weight.permute(0, 2, 3, 1).reshape(24, 2, -1, 4)
    zeros = (blocks == 0).sum((1, 3))
    assert 8 * (zeros == 8).sum() > 0.95 * zeros.sum() > 0  # int8 rounds a few more to zero
    assert prune_fashion.one_seed(dense, data, (images, classes), effort, tmp_path)[0] == row  # from the checkpoints


def test_what_is_said_of_the_results():
    text = render_fashion.distilled(made_up_distilled())
    assert "| distilled | 88.10 | 88.90 | 88.50 | +2.50 |" in text
    assert "The one that is taught is 2.50 points above the one that is not, in the worst of 2 seeds 2.10." in text
    assert "12.50 times" in text
    assert "13.4 times fewer" in text
    text = render_fashion.pruned(made_up_pruned())
    assert "| dense | 92.00 | 92.00 | 92.00 |  |" in text
    assert "| 80 % zeros, int8 | 91.80 | 91.70 | 91.75 | -0.25 |" in text
    assert "loses 0.25 points against dense float32, in the worst of 2 seeds 0.30." in text
    assert "packed: `dense`, `blocks_4`." in text
    assert "| 1 image | 0.480 | 0.400 | 0.060 | 0.040 | 12.00 times (10.00) | 1.50 times |" in text


MACHINE = {"versions": {"torch": "2"}, "cpu": "a CPU", "isa": "avx2", "commit": "abc", "cores": 2, "load": 0.5}


def made_up_distilled():
    rows = [
        {"seed": 0, "alone": 86.0, "distilled": 88.1, "zeros": 0.8, "pruned": 87.8, "int8": 87.7},
        {"seed": 1, "alone": 86.0, "distilled": 88.9, "zeros": 0.8, "pruned": 88.8, "int8": 88.7},
    ]
    times = {"teacher": 5.0, "teacher, norms folded": 4.0, "student, int8": 0.4}
    return {
        "machine": MACHINE,
        "date": "2026-01-01",
        "effort": {"teacher": 6, "student": 40, "pruned": 40, "taught_with": 60000, "images": 6000, "tested": 10000},
        "multiplications": {"teacher": 14_700_000, "student": 1_100_000},
        "teacher": 92.0,
        "rows": rows,
        "threads": 1,
        "milliseconds": {"1 image": times, "64 images": times},
    }


def made_up_pruned():
    rows = [
        {"seed": 0, "zeros": 0.8, "pruned": 91.9, "int8": 91.8},
        {"seed": 1, "zeros": 0.8, "pruned": 91.7, "int8": 91.7},
    ]
    times = {"float32": 0.48, "float32, norms folded": 0.4, "int8": 0.06, "pruned, int8": 0.04}
    return {
        "machine": MACHINE,
        "date": "2026-01-01",
        "effort": {"dense": 8, "pruned": 8, "images": 60000, "tested": 10000, "seeds": 2},
        "pattern": "2x4",
        "dense": {"float32": 92.0, "int8": 91.95},
        "multiplications": 14_700_000,
        "rows": rows,
        "forms": ["dense", "blocks_4"],
        "threads": 1,
        "milliseconds": {"1 image": times},
    }


def test_the_committed_students_keep_what_was_asked_for():
    result = json.loads((RESULTS / "distill-fashion.json").read_text())
    assert result["teacher"] >= 91
    assert 8 * result["multiplications"]["student"] <= result["multiplications"]["teacher"]
    assert len(result["rows"]) == 3
    assert all(row["zeros"] == pytest.approx(0.8, abs=1e-3) for row in result["rows"])
    means = result["means"]
    assert means["distilled"] - means["alone"] >= 1
    assert means["distilled"] - means["int8"] <= 1
    assert f"{means['int8']:.2f}" in render_fashion.distilled(result)


@pytest.mark.skipif(not (RESULTS / "prune-fashion.json").exists(), reason="no results are committed")
def test_the_committed_pruned_networks_keep_what_was_asked_for():
    result = json.loads((RESULTS / "prune-fashion.json").read_text())
    assert len(result["rows"]) == 3
    assert all(row["zeros"] == pytest.approx(0.8, abs=1e-3) for row in result["rows"])
    assert all(result["dense"]["float32"] - row["int8"] <= 0.5 for row in result["rows"])
    for times in result["milliseconds"].values():
        assert times["pruned, int8"] < times["int8"] < times["float32"]

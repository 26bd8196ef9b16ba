"""The benchmark of convolutional networks: the networks, their files, who runs them how, and where their time goes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from torch import nn  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cnn  # noqa: E402
from harness.subject import GRAPH_KINDS, SUBJECTS, load_subject  # noqa: E402
from rivals import cnn_files, cnn_layers, cnn_networks, cnn_task, cnn_torch  # noqa: E402
from rivals.lm_task import FOLDER_VARIABLE  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = "cnn-edgekern-frozen"
HERE = [*(name for name in cnn.OURS if not name.startswith(FROZEN)), "cnn-torch-fp32"]
SIZE = 32


class Small(nn.Module):
    """A stem, a depthwise layer, a 1x1 one and a 3x3 one beside which a sum goes, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU6()
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU6()
        self.conv3 = nn.Conv2d(8, 16, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.conv4 = nn.Conv2d(16, 16, 3, 1, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(x)))))
        return self.fc((x + self.conv4(x)).mean((2, 3)))


KINDS = {"conv1": "stem", "conv2": "depthwise", "conv3": "1x1", "conv4": "3x3", "fc": "linear"}
MACS = {
    "conv1": 16 * 16 * 8 * 27,
    "conv2": 16 * 16 * 8 * 9,
    "conv3": 16 * 16 * 16 * 8,
    "conv4": 16 * 16 * 16 * 16 * 9,
    "fc": 160,
}
TASK = {"name": "small-b2", "network": "small", "batch": 2}


def images(count: int = 5, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """The small network in the place of the real ones, random numbers in that of photographs."""
    for module in (cnn_files, cnn_torch):
        monkeypatch.setattr(module, "build", lambda name: Small().eval())
    monkeypatch.setattr(cnn_files.ImageClassifier, "pixels", lambda self, photographs: images())
    monkeypatch.setattr(cnn_files, "imagenet_photographs", list)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))


@pytest.fixture
def folder(tmp_path):
    cnn_files.make_folder(tmp_path / "small", "small")
    return tmp_path / "small"


def test_everybody_is_a_subject_and_asked_the_same():
    assert set(cnn.PROFILED) <= set(cnn.OURS)
    assert {*cnn.OURS, *cnn.LIMITS, *(f"cnn-{name}" for name in cnn.RIVALS)} <= set(SUBJECTS)
    assert set(cnn.NETWORKS) == set(cnn_networks.BUILDERS)
    assert set(cnn_task.GRAPHS) == set(GRAPH_KINDS)
    cells = cnn.all_cells()
    assert len({cell["name"] for cell in cells}) == len(cells) == 10
    assert set(cnn.QUICK_CELLS) <= {cell["name"] for cell in cells}
    assert Counter(cell["batch"] for cell in cnn.choose_cells(cells, cnn.LAYER_CELLS)) == {1: 5}


@pytest.mark.parametrize(
    ("network", "parameters", "convolutions"),
    [
        ("resnet18", 11_689_512, 20),
        ("resnet50", 25_557_032, 53),
        ("mobilenetv2", 3_504_872, 52),
        ("mobilenetv3", 5_483_032, 62),
    ],
)
def test_networks_are_those_of_their_papers(network, parameters, convolutions):
    torch.manual_seed(0)
    model = cnn_networks.build(network)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions
    x = images(2, 64)
    cnn_networks.settle_(model, x)
    assert not model.training
    with torch.inference_mode():
        exact = model(x)
        assert exact.shape == (2, cnn_networks.CLASSES)
        assert (exact[0] - exact[1]).norm() > 0.05 * exact[0].norm()  # images are told apart
        cnn_torch.fold_norms_(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert (model(x) - exact).norm() < 1e-3 * exact.norm()


def test_files_are_made_once_and_the_same_every_time(folder, tmp_path):
    cnn_files.make_folder(tmp_path / "again", "small")
    for name in (cnn_task.IMAGES, cnn_task.LOGITS):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    cnn_files.make_folder(folder, "small")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    weights = cnn_torch.load_network(folder, "small").state_dict()
    assert (weights["bn1.running_mean"].abs() > 0).any()  # settled


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", HERE)
def test_subjects_give_the_networks_answers(name):
    subject = load_subject(name, 1)
    with subject.session():
        facts = subject.prepare(**TASK)
        (call,) = subject.calls
        assert call().shape == (2, 10)
    assert facts["images"] == 5
    if name == "cnn-torch-fp32":
        assert facts["relative_error"] < 1e-5
        assert facts["agreeing"] == 5
    else:
        assert 1e-5 < facts["relative_error"] < 0.1
        assert facts["agreeing"] >= 4
        assert facts["int8_layers"] == len(facts["layers"]) == 5
        assert {layer: found["kind"] for layer, found in facts["layers"].items()} == KINDS
        assert {layer: found["macs"] for layer, found in facts["layers"].items()} == {n: 2 * m for n, m in MACS.items()}
        linked = [conv for conv in subject._model.children() if getattr(conv, "output_range", None)]
        assert len(linked) == (2 if subject.static else 0)  # the stem's and the depthwise layer's results
        assert facts["layers"]["conv2"]["shape"] == "8x16x16 to 8x16x16"
        order = cnn_torch.ORDERS[name.rpartition("-")[2]]
        assert call.args[0].is_contiguous(memory_format=order)
        profile = subject.profile()
        assert set(profile) == {*KINDS, cnn_task.OTHER}
        assert min(profile.values()) > 0


@pytest.mark.usefixtures("folder")
def test_the_frozen_network_gives_the_same_answers_in_one_region():
    subjects = [load_subject(name, 1) for name in (FROZEN, "cnn-edgekern-static-nhwc")]
    with subjects[0].session():
        facts, others = (subject.prepare(**TASK) for subject in subjects)
        assert torch.equal(subjects[0].calls[0](), subjects[1].calls[0]())
    assert facts["relative_error"] == others["relative_error"]
    assert (facts["int8_layers"], facts["regions"]) == (5, 1)


@pytest.mark.usefixtures("folder")
def test_the_frozen_network_with_uint8_sums_is_a_rounding_away():
    subjects = [load_subject(name, 1) for name in (FROZEN, f"{FROZEN}-uint8")]
    with subjects[0].session():
        _, facts = (subject.prepare(**TASK) for subject in subjects)
    assert (facts["int8_layers"], facts["regions"]) == (5, 1)
    assert facts["relative_error"] < 0.1


def test_a_network_that_is_wired_up_wrongly_is_not_timed(folder):
    exact = np.load(folder / cnn_task.LOGITS)
    np.save(folder / cnn_task.LOGITS, -exact)
    subject = load_subject("cnn-torch-fp32", 1)
    with subject.session(), pytest.raises(ArithmeticError, match=r"the logits are off by .* \(allowed 60%\)"):
        subject.prepare(**TASK)
    assert subject.calls == []


def test_every_image_is_judged_and_the_last_call_is_filled_up():
    seen, current = [], []
    bound = cnn_task.Bound(current.append, lambda: seen.append(current[-1]), lambda: current[-1][:, :, 0, 0])
    given = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)
    logits = cnn_task.logits_of(bound, given, 8)
    assert np.array_equal(logits[:, 0], np.arange(20))
    assert [batch.ravel().tolist() for batch in seen] == [
        list(range(8)),
        list(range(8, 16)),
        [16, 17, 18, 19, 0, 1, 2, 3],
    ]


class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(3e-3)
        return super().forward(x)


def test_layers_are_timed_and_the_hooks_go():
    model = nn.Sequential(Slow(4, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.zeros(1, 4)
    seconds, other = cnn_layers.time_layers(model, lambda: model(x), runs=5)
    assert set(seconds) == {"0", "2"}
    assert max(seconds["2"], other) < 3e-3 <= seconds["0"]
    assert set(cnn_layers.describe_layers(model, lambda: model(x))) == {"0", "2"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_kinds():
    kinds = [
        cnn_layers.kind_of(layer)
        for layer in (
            nn.Conv2d(3, 8, 7),
            nn.Conv2d(8, 8, 5, groups=8),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.Conv2d(8, 8, (1, 3)),
            nn.Conv2d(1, 8, 3),
            nn.Linear(3, 3),
            nn.MaxPool2d(3),
            nn.BatchNorm2d(3),
        )
    ]
    assert kinds == ["stem", "depthwise", "3x3", "1x3", "3x3", "linear", "", ""]

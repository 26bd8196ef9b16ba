"""Distillation: losses are those of the plain formulas, gradients included; models of all kinds learn from others."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekern import FitConfig, Int8, fit
from edgekern.distill import Attention, CachedLogits, Distiller, DistillError, Hidden, cache_logits, map_layers
from edgekern.distill.features import attention_distance, hidden_distance
from edgekern.distill.logits import Target, labels_target, logits_loss
from edgekern.nn import Int8Linear

pytestmark = pytest.mark.usefixtures("one_thread")


def make(width=16, seed=0, classes=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, classes)).eval()


X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3, 4, 0])


def kl(student, teacher, temperature):
    """The plain formula, by rows."""
    found, wanted = (F.log_softmax(each / temperature, -1) for each in (student, teacher))
    return temperature**2 * F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)


def gradient_of(of, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = of(*leaves)
    return loss.detach(), torch.autograd.grad(3 * loss, leaves)


@pytest.mark.parametrize("chunk", [1, 35, 1 << 22])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_chunks_give_the_plain_formula_and_its_gradients(chunk, temperature):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(11, 7), 3 * torch.randn(11, 7)
    rows, labels = torch.rand(11) < 0.6, torch.randint(0, 7, (11,))
    labels[3] = -100

    def plain(logits):
        hard = F.cross_entropy(logits, labels, ignore_index=-100)
        return 0.7 * kl(logits, teacher, temperature)[rows].mean() + 0.2 * hard

    def chunked(logits):
        targets = [Target(0.7, temperature, rows, teacher), labels_target(0.2, labels)]
        return logits_loss(logits, targets, chunk)[0]

    expected, found = gradient_of(plain, student), gradient_of(chunked, student)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_the_largest_logits_are_renormalised():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    values, indices = teacher.topk(3)
    wanted = torch.full_like(teacher, -1e30).scatter(1, indices, values)
    target = Target(1.0, 2.0, torch.ones(4, dtype=torch.bool), values, indices)
    expected = gradient_of(lambda logits: kl(logits, wanted, 2.0).mean(), student)
    found = gradient_of(lambda logits: logits_loss(logits, [target])[0], student)
    torch.testing.assert_close(found, expected)


def test_no_rows_and_impossible_classes():
    student = torch.randn(2, 3, requires_grad=True)
    none = Target(1.0, 1.0, torch.zeros(2, dtype=torch.bool), torch.randn(2, 3))
    ruled_out = Target(1.0, 1.0, torch.ones(2, dtype=torch.bool), torch.tensor([[0.0, 1.0, -torch.inf]] * 2))
    total, each = logits_loss(student, [none, ruled_out])
    total.backward()
    assert each[0] == 0
    assert student.grad.isfinite().all()
    bad = Target(1.0, 1.0, torch.ones(2, dtype=torch.bool), torch.full((2, 3), torch.nan))
    assert logits_loss(student, [bad])[0].isnan()  # and is not passed over


def test_half_of_the_memory_of_the_plain_formula():
    student = torch.randn(512, 4000).requires_grad_()
    teacher, rows = torch.randn(512, 4000), torch.ones(512, dtype=torch.bool)
    peaks = []
    for of in (
        lambda: kl(student, teacher, 2.0).mean(),
        lambda: logits_loss(student, [Target(1.0, 2.0, rows, teacher)], 1 << 16)[0],
    ):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            torch.autograd.grad(of(), student)
        now, peak = 0, 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                peak = max(peak, now)
        peaks.append(peak / student.nbytes)
    assert peaks[0] > 3
    assert peaks[1] < 2.3  # the gradient, and once more when it is scaled by what comes from above


@pytest.mark.parametrize("kind", ["squarehead", "mse", "cosine"])
def test_hidden_states_by_their_formulas(kind):
    torch.manual_seed(0)
    found, wanted = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    f, w = (torch.cat([each[0, :3], each[1, :1]]) for each in (found, wanted))
    expected = {
        "squarehead": F.mse_loss(f, w) / F.mse_loss(w, torch.zeros_like(w)),
        "mse": F.mse_loss(f, w),
        "cosine": 1 - F.cosine_similarity(f, w, -1).mean(),
    }[kind]
    assert hidden_distance(kind, found, wanted, mask).item() == pytest.approx(expected.item(), rel=1e-4)
    assert hidden_distance(kind, wanted, wanted, None).item() == pytest.approx(0, abs=1e-6)


def test_attention_maps_with_other_numbers_of_heads():
    torch.manual_seed(0)
    few, many = torch.randn(2, 2, 4, 4).softmax(-1), torch.randn(2, 4, 4, 4).softmax(-1)
    f, m = few.mean(1), many.mean(1)
    expected = (m * (m / f).log()).sum(-1).mean()
    assert attention_distance(few, many, None).item() == pytest.approx(expected.item(), rel=1e-4)
    same = (many * (many / many.roll(1, 0)).log()).sum(-1).mean()
    assert attention_distance(many.roll(1, 0), many, None).item() == pytest.approx(same.item(), rel=1e-4)


def test_a_classifier_learns_from_its_teacher():
    teacher, student = make(64, 1), make(8, 2)
    distiller = Distiller(student, teacher, hard=0.0)
    batches = [torch.randn(32, 8) for _ in range(20)]
    before = distiller(student, X)["loss"].item()
    result = fit(
        student, batches, distiller, FitConfig(epochs=10, optimizer={"name": "adam", "lr": 0.01}), progress=False
    )
    assert distiller(student, X)["loss"].item() < 0.2 * before
    assert result.steps == 200


def test_parts_and_their_weights():
    student, teacher, other = make(8, 0), make(8, 1), make(8, 2)
    distiller = Distiller(student, [teacher, other], temperature=3.0, soft=0.6, hard=0.3, teacher_weights=[3, 1])
    parts = distiller(student, (X, Y))
    with torch.no_grad():
        logits = student(X)
        soft = 0.75 * kl(logits, teacher(X), 3.0).mean() + 0.25 * kl(logits, other(X), 3.0).mean()
        hard = F.cross_entropy(logits, Y)
    torch.testing.assert_close(parts["soft"], soft)
    torch.testing.assert_close(parts["hard"], hard)
    torch.testing.assert_close(parts["loss"].detach(), 0.6 * soft + 0.3 * hard)
    assert [*distiller.parameters()] == []  # teachers are not trained
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_one_part_is_not_said_twice(tmp_path):
    student = make(8)
    distiller = Distiller(student, make(16, 1))
    assert [*distiller(student, X)] == ["loss"]
    fit(student, [X], distiller, FitConfig(steps=2), log=tmp_path / "log", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [[*line] for line in lines] == [["step", "epoch", "loss", "gradient_norm", "lr"]] * 2


def test_layers_of_other_widths_are_projected():
    student, teacher = make(8), make(16)
    hidden = Hidden({"0": "0"}, weight=2.0)
    distiller = Distiller(student, teacher, soft=0, hidden=hidden, example_inputs=X)
    assert distiller.projections["0"].weight.shape == (16, 8)
    parts = distiller(student, X)
    with torch.no_grad():
        wanted, found = teacher[0](X), distiller.projections["0"](student[0](X))
    assert [*parts] == ["loss"]
    assert parts["loss"].item() == pytest.approx(
        2 * (F.mse_loss(found, wanted) / wanted.square().mean()).item(), rel=1e-3
    )
    before = distiller.projections["0"].weight.detach().clone()
    fit(student, [X], distiller, FitConfig(steps=30, optimizer={"name": "adam", "lr": 0.02}), progress=False)
    assert not torch.equal(distiller.projections["0"].weight, before)
    assert distiller(student, X)["loss"].item() < 0.5 * parts["loss"].item()


def test_feature_maps_are_projected_too():
    student, teacher = nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Sequential(nn.Conv2d(1, 6, 3))
    x = torch.randn(2, 1, 8, 8)
    distiller = Distiller(student, teacher, soft=0, hidden=Hidden({"0": "0"}), example_inputs=x)
    assert distiller.projections["0"].weight.shape == (6, 2, 1, 1)
    assert distiller(student, x)["loss"].isfinite()
    with pytest.raises(DistillError, match=r"shapes \[2, 2, 7, 7\] and \[2, 6, 6, 6\]"):
        Distiller(nn.Sequential(nn.Conv2d(1, 2, 2)), teacher, soft=0, hidden=Hidden({"0": "0"}), example_inputs=x)


def test_a_teacher_in_int8_is_a_copy():
    teacher, student = make(64, 1), make(8, 2)
    distiller = Distiller(student, teacher, convert_teachers=Int8())
    assert isinstance(teacher[0], nn.Linear)
    assert not isinstance(teacher[0], Int8Linear)
    assert isinstance(distiller.teachers[0][0], Int8Linear)
    exact = Distiller(student, teacher)(student, X)["loss"]
    assert distiller(student, X)["loss"].item() == pytest.approx(exact.item(), rel=0.05)


def test_cached_logits_are_those_of_the_teacher(tmp_path):
    teacher, student = make(64, 1, classes=40), make(8, 2, classes=40)
    x = torch.randn(50, 8)
    cache = cache_logits(teacher, x.split(7), tmp_path / "all", 40, rows_per_file=16, progress=False)
    assert len(cache) == 50
    assert len(list((tmp_path / "all").glob("*.safetensors"))) == 4
    index = torch.tensor([49, 0, 15, 16, 3])
    by_cache = Distiller(student, CachedLogits(tmp_path / "all"))
    by_teacher = Distiller(student, teacher)
    expected = by_teacher(student, x[index])["loss"]
    assert by_cache(student, (x[index], index))["loss"].item() == pytest.approx(expected.item(), rel=1e-2)
    few = cache_logits(teacher, x.split(7), tmp_path / "few", 3, progress=False)
    values, indices = few.rows(index)
    with torch.no_grad():
        torch.testing.assert_close(values.float(), teacher(x[index]).topk(3)[0], rtol=1e-3, atol=1e-3)
        assert torch.equal(indices.long(), teacher(x[index]).topk(3)[1])
    with pytest.raises(DistillError, match="holds cached logits already"):
        cache_logits(teacher, x.split(7), tmp_path / "few")
    with pytest.raises(DistillError, match="expected numbers of samples, 0 to 49"):
        few.rows(torch.tensor([50]))
    with pytest.raises(DistillError, match="need the samples' numbers"):
        by_cache(student, {"input": x, "index": None})
    with pytest.raises(DistillError, match=r"has no logits.json"):
        CachedLogits(tmp_path)
    next((tmp_path / "few").glob("*.safetensors")).write_bytes(b"nothing")
    with pytest.raises(DistillError, match="cannot be read"):
        CachedLogits(tmp_path / "few").rows(index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft": 0}, "expected at least one to learn from"),
        ({"hidden": Hidden({"0": "0"})}, "Hidden needs a batch"),
        ({"hidden": Hidden({"9": "0"}), "example_inputs": X}, "the student has no module '9'"),
        ({"hidden": Hidden({"0": "9"}), "example_inputs": X}, "the teacher has no module '9'"),
        ({"hidden": Hidden({"0": "0"}, teacher=1), "example_inputs": X}, "teacher 1 is none of the 1"),
        ({"attention": Attention({0: 0}), "example_inputs": X}, "output_attentions|no attention map"),
        ({"teacher_weights": [1, 2]}, "expected 1 numbers, none negative"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises((DistillError, TypeError), match=message):
        Distiller(make(8), make(16, 1), **options)


def test_wrong_arguments_are_refused():
    student = make()
    with pytest.raises(DistillError, match="the student cannot teach itself"):
        Distiller(student, student)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module or CachedLogits, got str"):
        Distiller(student, ["teacher"])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Distiller(student, make(), temperature=0)
    with pytest.raises(ValueError, match="unknown kind 'l1'"):
        Hidden({"0": "0"}, kind="l1")
    with pytest.raises(TypeError, match="layers must be a mapping of str to str"):
        Hidden({})
    with pytest.raises(DistillError, match=r"logits have shape \[6, 4\], the student's \[6, 5\]"):
        Distiller(student, make(classes=4))(student, X)
    with pytest.raises(DistillError, match="there are no labels in it"):
        Distiller(student, make(1), hard=1.0)(student, {"input": X})
    with pytest.raises(DistillError, match=r"labels: expected shape \[6\], got \[5\]"):
        Distiller(student, make(1), hard=1.0)(student, (X, Y[:5]))


def test_maps_need_stacks_that_are_alike():
    with pytest.raises(DistillError, match="say which layers go together"):
        map_layers(make(), copy.deepcopy(make()))

"""freeze: regions of converted convolutions are one call, and give the same bits."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import edgekern as ek
from edgekern.evaluate import images as classifiers
from edgekern.evaluate.packages import MissingDataError
from edgekern.nn import Int8Conv2d
from edgekern.nn.int8_program import Int8Program
from edgekern.nn.int8_steps import ADD

STATIC = ek.Int8(activations="static")
FORMATS = (torch.contiguous_format, torch.channels_last)


class Block(nn.Module):
    """Of a ResNet: one ReLU for what follows a convolution and for what follows the sum."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.past = nn.Conv2d(channels, out_channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        y += self.past(x)
        return self.relu(y)


class Inverted(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        wide = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.layers(x))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(Inverted(), Block(8, 8, 1), Block(8, 16, 2), nn.Conv2d(16, 12, 1))
        self.linear = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self.head(x)).mean((2, 3)))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def converted(model: nn.Module, x: Tensor, link: bool = True) -> nn.Module:
    ek.fuse_(model.eval(), x)
    has_linear = any(isinstance(module, nn.Linear) for module in model.modules())
    rules = {"linear": None} if has_linear else {}
    ek.convert_(model, ek.PerLayer({**rules, "_default": STATIC}), data=[x], progress=False)
    if link:
        ek.link_(model)
    return model


def classifier(link: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return converted(Classifier(), images(2, 3, 40, 36), link)


def programs(model: nn.Module) -> list[Int8Program]:
    return [module for module in model.modules() if isinstance(module, Int8Program)]


def assert_same(frozen: nn.Module, model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        got, wanted = frozen(x.clone()), model(x.clone())
    assert got.dtype == wanted.dtype
    assert steps(got) == steps(wanted)
    assert torch.equal(got, wanted)


def steps(x: Tensor) -> list[int]:
    """Its strides, but for dimensions of one element, whose stride means nothing."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("link", [True, False])
def test_a_network_is_one_region_and_gives_the_same_bits(memory_format: torch.memory_format, link: bool) -> None:
    model = classifier(link)
    frozen = ek.freeze(model, images(1, 3, 40, 36))
    assert len(programs(frozen)) == 1
    assert not any(isinstance(module, Int8Conv2d) for module in frozen.modules())
    assert "10 of 10 converted convolutions run in 1 region" in str(frozen.report)
    for shape in ((1, 3, 40, 36), (3, 3, 40, 36), (2, 3, 61, 23), (1, 3, 8, 8), (0, 3, 40, 36)):
        assert_same(frozen, model, images(*shape).to(memory_format=memory_format))
    assert_same(frozen, model, images(2, 40, 36, 6).permute(0, 3, 1, 2)[:, ::2])  # strides of neither


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / a.double().norm())


def test_sums_of_uint8_are_a_rounding_from_the_model() -> None:
    model, x = classifier(), images(2, 3, 40, 36)
    frozen = ek.freeze(model, x, uint8_sums=True)
    with torch.inference_mode():
        wanted, got = model(x), frozen(x)
    assert 0 < distance(wanted, got) < 0.1
    assert frozen.report.difference == pytest.approx(distance(wanted, got))
    assert f"results are {frozen.report.difference:.1%} from the model's" in str(frozen.report)
    assert ek.freeze(model, x).report.difference == 0

    # The stem, whose pooling the first block adds to, and all sums. What the last one adds nothing but it reads.
    steps = programs(frozen)[0].steps
    sums = [step for step in steps if step.kind == ADD]
    assert steps[0].y_range == steps[2].x_range
    assert [step.y_range is not None for step in sums] == [True, True, True]
    assert [step.x_range is not None or step.other_range is not None for step in sums] == [True, True, False]
    copied = copy.deepcopy(frozen)
    with torch.inference_mode():
        assert torch.equal(copied(x), got)


def test_sums_of_uint8_add_what_their_ranges_say() -> None:
    model = converted(nn.Sequential(Block(8, 8, 1), Block(8, 8, 1), nn.Conv2d(8, 8, 1)), images(2, 8, 9, 9), link=False)
    x = images(2, 8, 9, 9).to(memory_format=torch.channels_last)
    first, second, last = model
    with torch.inference_mode():
        middle = rounded(first(x), second.conv1.input_range)  # type: ignore[operator]
        block = second.relu(middle + second.conv2(second.relu(second.conv1(middle))))  # type: ignore[operator]
        wanted = last(block)
        got = ek.freeze(model, x, uint8_sums=True)(x)
        floats = model(x)
    # Not the very bits: what one convolution hands on to the next is rounded another way where it is close to a half.
    assert distance(wanted, got) < distance(wanted, floats) / 4


def rounded(x: Tensor, by: tuple[float, int]) -> Tensor:
    """What uint8 numbers of a range stand for."""
    scale, zero_point = torch.tensor(by[0]), by[1]
    return (((x * (1 / scale)).round() + zero_point).clamp(0, 255) - zero_point) * scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Inverted(), Block(8, 8, 1), Block(8, 16, 2), nn.MaxPool2d(2)).eval().to(dtype)
    x = images(2, 8, 14, 12).to(dtype)
    ek.convert_(model, STATIC, data=[x], progress=False)
    ek.link_(model)
    for memory_format in FORMATS:
        assert_same(ek.freeze(model, x), model, x.to(memory_format=memory_format))


def test_the_model_stays_as_it_was_and_weights_are_shared() -> None:
    model = classifier()
    before = {name: type(module) for name, module in model.named_modules()}
    frozen = ek.freeze(model, images(1, 3, 40, 36))
    assert {name: type(module) for name, module in model.named_modules()} == before
    packed = {module.packed.data_ptr() for module in model.modules() if isinstance(module, Int8Conv2d)}
    assert {each.data_ptr() for each in programs(frozen)[0].packed} == packed
    assert frozen.get_submodule("linear") is model.get_submodule("linear")


def test_one_image_without_a_batch() -> None:
    model = converted(nn.Sequential(Inverted(), Inverted()), images(2, 8, 9, 9))
    frozen = ek.freeze(model, images(2, 8, 9, 9))
    assert_same(frozen, model, images(8, 9, 9))


def test_what_is_read_elsewhere_ends_a_region() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Inverted(), Inverted()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x)
            return x.mean((2, 3)), self.second(x)

    x = images(2, 8, 9, 9)
    model = converted(Features(), x)
    frozen = ek.freeze(model, x)
    assert len(programs(frozen)) == 2
    with torch.inference_mode():
        for got, wanted in zip(frozen(x), model(x), strict=True):
            assert torch.equal(got, wanted)


def test_layers_with_hooks_or_ranges_of_their_own_are_left_out_with_the_reason() -> None:
    model = classifier()
    seen: list[Tensor] = []
    model.get_submodule("body.3").register_forward_hook(lambda module, args, result: seen.append(result))
    frozen = ek.freeze(model, images(1, 3, 40, 36))
    reasons = {row.name: row.reason for row in frozen.report.rows if not row.region}
    assert reasons == {"body.3": "it has hooks, which would not run"}
    seen.clear()
    assert_same(frozen, model, images(1, 3, 40, 36))
    assert len(seen) == 2

    x = images(2, 8, 9, 9)
    mixed = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)).eval()
    ek.convert_(mixed, ek.PerLayer({"1": ek.Int8(), "_default": STATIC}), data=[x], progress=False)
    frozen = ek.freeze(mixed, x)
    assert [row.region for row in frozen.report.rows] == ["region_0", "", "region_1"]
    assert "range of each image" in frozen.report.rows[1].reason
    assert_same(frozen, mixed, x)


def test_a_module_with_hooks_around_layers_is_left_as_it_is() -> None:
    model = classifier()
    seen: list[Any] = []
    model.get_submodule("body.0.layers").register_forward_pre_hook(lambda module, args: seen.append(args))
    frozen = ek.freeze(model, images(1, 3, 40, 36))
    left = [row for row in frozen.report.rows if not row.region]
    assert {row.name for row in left} == {"body.0.layers.0", "body.0.layers.2", "body.0.layers.4"}
    assert all("inside of 'body.0.layers', which has hooks" in row.reason for row in left)
    seen.clear()
    assert_same(frozen, model, images(1, 3, 40, 36))
    assert len(seen) == 2


def test_what_changes_images_in_place_is_not_taken_in_where_others_read_them() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z = F.relu(y, inplace=True)
            return self.other(y) + z

    x = images(2, 8, 9, 9)
    model = InPlace().eval()
    ek.convert_(model, STATIC, data=[x], progress=False)
    frozen = ek.freeze(model, x)
    assert_same(frozen, model, x)
    assert [row.region for row in frozen.report.rows] == ["region_0", ""]


def test_copies_work_and_pickles_say_what_to_do() -> None:
    model = classifier()
    x = images(1, 3, 40, 36)
    frozen = ek.freeze(model, x)
    assert_same(copy.deepcopy(frozen), model, x)
    with pytest.raises(TypeError, match=r"edgekern\.save"):
        pickle.dumps(frozen)


def test_export_sees_one_op() -> None:
    model = classifier()
    x = images(2, 3, 40, 36)
    frozen = ek.freeze(model, x)
    with torch.no_grad():
        program = torch.export.export(frozen, (x,))
        assert torch.equal(program.module()(x), model(x))
    assert sum("int8_conv2d_program" in str(node.target) for node in program.graph.nodes) == 1


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("uint8_sums", [True, False])
@pytest.mark.parametrize("link", [True, False])
def test_fake_tensors_have_the_shape_dtype_and_order_of_real_ones(
    memory_format: torch.memory_format, link: bool, uint8_sums: bool
) -> None:
    model = classifier(link).get_submodule("body")
    x = images(2, 8, 11, 9).to(memory_format=memory_format)
    program = programs(ek.freeze(model, x, uint8_sums=uint8_sums))[0]
    with torch.no_grad():
        real = program(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = program(mode.from_tensor(x))
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_what_cannot_be_frozen_says_why() -> None:
    x = images(2, 8, 9, 9)
    with pytest.raises(TypeError, match="model"):
        ek.freeze("network", x)  # type: ignore[arg-type]
    with pytest.raises(ek.FuseError, match="found no converted convolution"):
        ek.freeze(nn.Conv2d(8, 8, 1).eval(), x)
    dynamic = nn.Sequential(nn.Conv2d(8, 8, 1)).eval()
    ek.convert_(dynamic, ek.Int8())
    with pytest.raises(ek.FuseError, match="find the range of each image"):
        ek.freeze(dynamic, x)
    model = converted(nn.Sequential(Inverted()), x)
    with pytest.raises(ek.FuseError, match="does not run on them"):
        ek.freeze(model, images(2, 9, 9, 9))
    with pytest.raises(ek.FuseError, match=r"call model\.eval\(\)"):
        ek.freeze(model.train(), x)

    class Deciding(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    deciding = Deciding(nn.Conv2d(8, 8, 1)).eval()
    ek.convert_(deciding, STATIC, data=[x], progress=False)
    with pytest.raises(ek.FuseError, match=r"torch\.fx cannot trace it"):
        ek.freeze(deciding, x)


def test_images_that_do_not_fit_are_refused() -> None:
    frozen = ek.freeze(converted(nn.Sequential(Inverted()), images(2, 8, 9, 9)), images(2, 8, 9, 9))
    with torch.inference_mode():
        with pytest.raises(ValueError, match="step 0 of 4 cannot run for x of shape"):
            frozen(images(2, 9, 9, 9))
        with pytest.raises(ValueError, match="must be images"):
            frozen(images(8, 9))
    with pytest.raises(ValueError, match="no backward"):
        frozen(images(2, 8, 9, 9).requires_grad_())


def test_the_op_refuses_programs_that_cannot_be() -> None:
    frozen = ek.freeze(converted(nn.Sequential(Inverted()), images(2, 8, 9, 9)), images(2, 8, 9, 9))
    program, x = programs(frozen)[0], images(2, 8, 9, 9)

    def call(rows: Tensor, packed: list[Tensor] = program.packed, channels: int = 8) -> Tensor:
        return program._op(x, packed, rows, channels, *program._known[1:])

    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"program must be contiguous int64 \[steps, 23\]"):
            call(program.program.int())
        with pytest.raises(ValueError, match="names packed layer 1 of 1"):
            call(program.program, program.packed[:1])
        with pytest.raises(ValueError, match="out_channels must be 8"):
            call(program.program, channels=9)
        with pytest.raises(ValueError, match="packed must be a contiguous 1-D uint8"):
            call(program.program, [x] * 3)
        wrong = program.program.clone()
        wrong[1, ek.ops.PROGRAM_COLUMNS.index("x")] = 2
        with pytest.raises(ValueError, match="step 1 of 4 cannot run"):
            call(wrong)


class Drawn(nn.Module):
    """A graph of small layers, of 4 channels and one size everywhere."""

    def __init__(self, plan: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.plan = plan
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(3, 1, 1)
        kinds = {"1x1": (1, 1), "3x3": (3, 1), "lanes": (3, 4), "sum": (1, 1), "relu": (1, 1), "pool": (1, 1)}
        self.convs = nn.ModuleList(
            nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=groups)
            for kernel, groups in (kinds[kind] for kind, _, _ in plan)
        )

    def forward(self, x: Tensor) -> Tensor:
        made = [self.convs[0](x)]
        for i, (kind, first, second) in enumerate(self.plan):
            a, b = made[first % len(made)], made[second % len(made)]
            if kind == "sum":
                made.append(a + b)
            elif kind == "relu":
                made.append(self.relu(a))
            elif kind == "pool":
                made.append(self.pool(a))
            else:
                made.append(self.convs[i](a))
        return made[-1] + made[-2] if len(made) > 1 else made[-1]


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    plan=st.lists(
        st.tuples(
            st.sampled_from(["1x1", "3x3", "lanes", "sum", "relu", "pool"]), st.integers(0, 20), st.integers(0, 20)
        ),
        min_size=1,
        max_size=8,
    ),
    link=st.booleans(),
    size=st.tuples(st.sampled_from([1, 3]), st.just(4), st.integers(1, 7), st.integers(1, 7)),
    memory_format=st.sampled_from(FORMATS),
)
def test_graphs_of_any_shape(
    plan: list[tuple[str, int, int]], link: bool, size: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = Drawn(plan).eval()
    x = images(2, 4, 6, 5)
    ek.convert_(model, STATIC, data=[x], progress=False)
    if not any(isinstance(m, Int8Conv2d) and m.input_range is not None for m in model.modules()):
        return
    if link:
        ek.link_(model)
    other = images(*size).to(memory_format=memory_format)
    assert_same(ek.freeze(model, x), model, other)
    rounding = ek.freeze(model, x, uint8_sums=True)
    assert rounding.report.difference < 0.3
    with torch.inference_mode():  # of which more may lie beyond the ranges than of what these were made of
        wanted, got = model(other), rounding(other)
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)


def test_efficientnet() -> None:
    try:
        model = classifiers.efficientnet_lite0().model.eval()
    except MissingDataError as missing:
        pytest.skip(str(missing))
    x = images(2, 3, 224, 224)
    ek.fuse_(model)
    ek.convert_(model, STATIC, data=[x], progress=False)
    ek.link_(model)
    frozen = ek.freeze(model, x)
    assert "49 of 49 converted convolutions run in 1 region" in str(frozen.report)
    for shape in ((1, 3, 224, 224), (3, 3, 97, 130)):
        for memory_format in FORMATS:
            assert_same(frozen, model, images(*shape).to(memory_format=memory_format))

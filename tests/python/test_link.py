"""link_: converted convolutions that follow each other hand on 8-bit numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import edgekern as ek
from edgekern.nn import Int8Conv2d

STATIC = ek.Int8(activations="static")


class Residual(nn.Module):
    """Expand, filter, project, and add: the middle may be linked, the ends may not."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.filter = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.filter(self.expand(x)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), Residual(), Residual()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def converted(scheme: ek.Int8 = STATIC) -> nn.Sequential:
    model = network()
    ek.fuse_(model, images())
    ek.convert_(model, scheme, data=[images(4)] if scheme is STATIC else None, progress=False)
    return model


def test_the_middle_is_linked_and_the_ends_are_not() -> None:
    model = converted()
    report = ek.link_(model)
    linked = {row.name for row in report.linked}
    assert linked == {"2.expand.0", "2.filter.0", "3.expand.0", "3.filter.0"}
    reasons = {row.name: row.reason for row in report.rows if not row.linked}
    assert set(reasons) == {"0", "2.project.0", "3.project.0"}
    assert all("reads it as floats" in reason for reason in reasons.values())
    assert "4 of 7 converted convolutions hand on uint8" in str(report)


def test_what_is_handed_on_is_the_same_but_for_a_rounding() -> None:
    model = converted()
    x = images()
    with torch.inference_mode():
        before = model(x)
        ek.link_(model)
        after = model(x)
        middle = model[2].expand(model[1](model[0](x)))
    assert middle.dtype == torch.uint8
    assert middle.is_contiguous(memory_format=torch.channels_last)
    assert after.dtype == torch.float32
    # A number that lies between two steps may go to either.
    assert (after - before).norm() < 5e-3 * before.norm()


def test_uint8_stands_for_the_floats() -> None:
    model = converted()
    x = images()
    expand = model[2].expand[0]
    with torch.inference_mode():
        head = model[1](model[0](x))
        floats = expand(head)
        ek.link_(model)
        scale, zero_point = expand.output_range
        rounded = (expand(head).float() - zero_point) * scale
    high = scale * (255 - zero_point)
    assert (rounded - floats.clamp(max=high)).abs().max() <= scale * 0.501


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format_goes_in(memory_format: torch.memory_format) -> None:
    model = converted()
    ek.link_(model)
    x = images()
    with torch.inference_mode():
        assert torch.allclose(model(x.to(memory_format=memory_format)), model(x), atol=1e-5)


def test_dynamic_ranges_are_not_linked() -> None:
    model = converted(ek.Int8())
    report = ek.link_(model)
    assert not report.linked
    assert any("finds the range of each image" in row.reason for row in report.rows)


def test_a_hook_between_two_keeps_floats() -> None:
    model = converted()
    seen = []
    model[2].filter.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    linked = {row.name for row in ek.link_(model).linked}
    assert "2.expand.0" not in linked
    assert "2.filter.0" not in linked  # its result leaves the module that the hook is on
    with torch.inference_mode():
        model(images())
    assert seen == [torch.float32]


def test_linking_again_settles_anew() -> None:
    model = converted()
    ek.link_(model)
    assert model[2].expand[0].output_range is not None
    model[2].filter[0] = model[2].filter[0].dense()
    ek.link_(model)
    assert model[2].expand[0].output_range is None
    with torch.inference_mode():
        assert model(images()).dtype == torch.float32


def test_copies_and_state_dicts_start_unlinked() -> None:
    model = converted()
    ek.link_(model)
    assert all(each.output_range is None for each in copy.deepcopy(model).modules() if isinstance(each, Int8Conv2d))
    fresh = converted()
    fresh.load_state_dict(model.state_dict())
    assert all(each.output_range is None for each in fresh.modules() if isinstance(each, Int8Conv2d))


def test_a_model_without_converted_convolutions() -> None:
    with pytest.raises(ek.FuseError, match="no converted convolution"):
        ek.link_(network())
    with pytest.raises(TypeError, match="model"):
        ek.link_("network")  # type: ignore[arg-type]

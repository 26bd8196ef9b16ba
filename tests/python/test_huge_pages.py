"""Where packed weights lie: those of small layers together, on huge pages."""

import copy
import gc
import mmap
from itertools import pairwise

import pytest
import torch
from torch import nn

import edgekern as ek
from edgekern.nn.huge_pages import HUGE_PAGE, LARGE, gather_weights_

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages to ask for")


def native_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, ek.nn.NativeLayer)]


def small_layers(count=12):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(512, 512) for _ in range(count)))


def test_small_layers_lie_side_by_side_from_the_start_of_a_huge_page():
    model = small_layers()
    ek.convert_(model, ek.Int8())
    layers = native_layers(model)
    assert layers[0].packed.data_ptr() % HUGE_PAGE == 0
    for one, next_one in pairwise(layers):
        gap = next_one.packed.data_ptr() - one.packed.data_ptr() - one.packed.nbytes
        assert 0 <= gap < 64
        assert next_one.packed.data_ptr() % 64 == 0


@pytest.mark.parametrize("scheme", [ek.Int8(), ek.Int4(32)], ids=str)
def test_moving_weights_changes_no_result(scheme):
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(6)))
    alone = copy.deepcopy(model)
    for index, layer in enumerate(alone):
        one = nn.Sequential(layer)
        ek.convert_(one, scheme)  # below a huge page: where it was packed
        alone[index] = one[0]
    ek.convert_(model, scheme)
    x = torch.randn(3, 1024)
    with torch.inference_mode():
        assert torch.equal(model(x), alone(x))


def test_a_layer_too_large_and_a_model_too_small_stay_where_they_are():
    model = nn.Sequential(nn.Linear(2304, 2304), nn.Linear(64, 64))
    ek.convert_(model, ek.Int8())
    large, small = native_layers(model)
    assert large.packed.nbytes >= LARGE
    assert all(layer.packed.untyped_storage().nbytes() == layer.packed.nbytes for layer in (large, small))


def test_a_layer_outlives_its_neighbours():
    model = small_layers()
    ek.convert_(model, ek.Int8())
    last = model[-1]
    storage = last.packed.untyped_storage()
    assert storage.nbytes() > sum(layer.packed.nbytes for layer in native_layers(model))
    del model, storage
    gc.collect()
    with torch.inference_mode():
        last(torch.randn(2, 512))  # the weights are still there


def test_weights_made_in_inference_mode_are_moved_too():
    with torch.inference_mode():
        model = small_layers()
        ek.convert_(model, ek.Int8())
    first, second, *_ = native_layers(model)
    assert first.packed.untyped_storage().data_ptr() == second.packed.untyped_storage().data_ptr()
    gather_weights_(model)
    with torch.inference_mode():
        assert model(torch.randn(1, 512)).isfinite().all()


def test_new_weights_and_copies_leave_the_others_alone():
    model, other = small_layers(), small_layers()
    ek.convert_(model, ek.Int8())
    ek.convert_(other, ek.Int8())
    x = torch.randn(2, 512)
    with torch.inference_mode():
        before = model(x)
        copied = copy.deepcopy(model)
        model[3].load_state_dict(nn.Sequential(other)[0][4].state_dict())
        assert not torch.equal(model(x), before)
        assert torch.equal(copied(x), before)

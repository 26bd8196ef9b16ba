"""MaskLock: zeros survive optimizers, checkpoints and copies."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from edgekern import AGP, GradualPruner, MaskLock, Prune, prune_

OPTIMIZERS = {
    "sgd momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=3),
}


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def train(model, optimizer, steps=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(8, 2, 4, 4, generator=generator), torch.randint(0, 4, (8,), generator=generator)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("weight")}


def zeros(model):
    return {name: weight == 0 for name, weight in weights(model).items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_zeros_survive_momentum_moments_and_weight_decay(make_optimizer):
    unlocked, model = make(), make()
    for each in (unlocked, model):
        optimizer = make_optimizer(each.parameters())
        train(each, optimizer)  # momentum that would move pruned weights
        prune_(each, Prune(0.5))
        if each is model:
            lock = MaskLock(model, optimizer)
        before = weights(each)
        train(each, optimizer)
        if each is unlocked:
            assert not same(zeros(each), {name: w == 0 for name, w in before.items()}), "else this proves nothing"
    assert same(zeros(model), {name: ~mask for name, mask in lock.masks.items()})
    assert set(lock.sparsity.values()) == {0.5}
    assert not torch.equal(weights(model)["3.weight"], before["3.weight"]), "the others go on learning"


def test_without_an_optimizer_it_is_applied_by_hand():
    model = make()
    prune_(model, Prune(0.5))
    lock = MaskLock(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer)
    assert not same(zeros(model), {name: ~mask for name, mask in lock.masks.items()})
    lock.apply_()
    assert same(zeros(model), {name: ~mask for name, mask in lock.masks.items()})


def test_gradients_of_pruned_weights_do_not_count_in_a_norm():
    model = make()
    prune_(model, Prune(0.5))
    lock = MaskLock(model)
    model(torch.randn(8, 2, 4, 4)).square().sum().backward()
    gradient = model[3].weight.grad.clone()
    assert (gradient[~lock.masks["3.weight"]] != 0).any()
    lock.mask_gradients_()
    assert torch.equal(model[3].weight.grad, gradient * lock.masks["3.weight"])


@given(st.floats(0.05, 0.95), st.sampled_from(["unstructured", "1x4", "4x4"]), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_random_masks_survive(sparsity, pattern, seed):
    model = make(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    train(model, optimizer, 1)
    prune_(model, Prune(sparsity, pattern, "random", seed=seed))
    before = zeros(model)
    MaskLock(model, optimizer)
    train(model, optimizer, 2)
    for name, zero in zeros(model).items():
        if not before[name].all():
            assert torch.equal(zero, before[name])


def test_a_weight_that_starts_at_zero_may_learn():
    model = make()
    nn.init.zeros_(model[5].weight)
    prune_(model, Prune(0.5), filter_fn=lambda module, name: name != "5")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    lock = MaskLock(model, optimizer)
    assert lock.masks.keys() == {"0.weight", "3.weight"}
    train(model, optimizer, 2)
    assert (model[5].weight != 0).any()
    lock = MaskLock(model, optimizer, {"5.weight": torch.zeros(4, 16, dtype=torch.bool)})
    assert (model[5].weight == 0).all()
    train(model, optimizer, 2)
    assert (model[5].weight == 0).all()
    assert lock.sparsity == {"5.weight": 1.0}


# ------------------------------------------------------------------------------------------------ checkpoints, copies


def test_training_resumes_from_a_checkpoint_as_if_it_had_not_stopped():
    def start():
        model = make()
        return model, torch.optim.AdamW(model.parameters(), 0.05)

    model, optimizer = start()
    prune_(model, Prune(0.6))
    lock = MaskLock(model, optimizer)
    train(model, optimizer, seed=1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lock": lock.state_dict()}, file)
    train(model, optimizer, seed=2)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, optimizer_again = start()
    lock_again = MaskLock(again, optimizer_again)
    assert lock_again.masks == {}
    again.load_state_dict(saved["model"], assign=True)
    optimizer_again = torch.optim.AdamW(again.parameters(), 0.05)
    optimizer_again.load_state_dict(saved["optimizer"])
    lock_again.attach(optimizer_again)
    lock_again.load_state_dict(saved["lock"])
    train(again, optimizer_again, seed=2)
    assert same(weights(model), weights(again))
    assert same(lock.masks, lock_again.masks)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_locks_the_copies(duplicate):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    prune_(model, Prune(0.5))
    lock = MaskLock(model, optimizer)
    train(model, optimizer, 2)
    model_2, optimizer_2, lock_2 = duplicate((model, optimizer, lock))
    before = weights(model)
    train(model_2, optimizer_2)
    assert same(weights(model), before)
    assert same(zeros(model_2), {name: ~mask for name, mask in lock_2.masks.items()})
    assert not same(weights(model_2), before)


def test_a_state_dict_is_a_copy():
    model = make()
    prune_(model, Prune(0.5))
    lock = MaskLock(model)
    lock.state_dict()["0.weight"].fill_(True)
    assert lock.sparsity["0.weight"] == 0.5


def test_removed_it_lets_weights_go():
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    prune_(model, Prune(0.5))
    lock = MaskLock(model, optimizer)
    lock.attach(optimizer)  # twice is once
    assert repr(lock) == "MaskLock(360 weights of 3 parameters, 1 optimizers)"
    lock.remove()
    train(model, optimizer, 1)
    assert (model[3].weight == 0).sum() < 256


def test_update_adds_what_was_pruned_since():
    model = make()
    prune_(model, Prune(0.2))
    lock = MaskLock(model)
    prune_(model, Prune(0.7))
    with torch.no_grad():
        model[3].bias.add_(1)
    lock.update()
    assert same({name: ~mask for name, mask in lock.masks.items()}, zeros(model))
    assert lock.sparsity["3.weight"] == pytest.approx(0.7, abs=0.01)


def test_distributed_data_parallel_is_a_model_too(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(make())
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        train(model, optimizer, 2)
        prune_(model, Prune(0.5))
        lock = MaskLock(model, optimizer)
        train(model, optimizer, 2)
        assert lock.masks.keys() == {"module.0.weight", "module.3.weight", "module.5.weight"}
        assert same(zeros(model), {name: ~mask for name, mask in lock.masks.items()})
    finally:
        torch.distributed.destroy_process_group()


def _train_as_one_of_two(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(make(seed=rank))  # which gives all of them the weights of rank 0
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    train(model, optimizer, 2, seed=rank)
    prune_(model, Prune(0.5))
    lock = MaskLock(model, optimizer)
    pruner = GradualPruner(model, Prune(0.75, method="movement"), AGP(2, 6, every=2), optimizer)
    before = weights(model)
    for step in range(8):
        train(model, optimizer, 1, seed=2 * step + rank)
        pruner.step()
    torch.save({"masks": lock.masks, "before": before, "after": weights(model)}, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_that_train_together_agree_on_their_zeros(tmp_path):
    torch.multiprocessing.spawn(_train_as_one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first["masks"], second["masks"])
    assert same(first["after"], second["after"])
    assert not same(first["before"], first["after"])
    for name, mask in first["masks"].items():
        assert (first["before"][name] != 0).float().mean() == mask.float().mean() == 0.5
        assert (first["after"][name][~mask] == 0).all()
        assert (first["after"][name] == 0).float().mean() == 0.75


# ------------------------------------------------------------------------------------------------ torch.nn.utils.prune


def test_masks_of_torch_are_taken_over():
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    train(model, optimizer, 2)
    x = torch.randn(8, 2, 4, 4)
    torch_prune.l1_unstructured(model[3], "weight", 0.5)
    torch_prune.random_unstructured(model[3], "weight", 0.5)  # on top: a container of two
    torch_prune.random_unstructured(model[3], "bias", 0.25)
    torch_prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    parameter, mask, expected = model[3].weight_orig, model[3].weight_mask.bool(), model(x)
    lock = MaskLock(model, optimizer)
    assert model[3].weight is parameter
    assert not torch_prune.is_pruned(model)
    assert torch.equal(model(x), expected)
    assert lock.masks.keys() == {"0.weight", "3.weight", "3.bias"}
    assert torch.equal(lock.masks["3.weight"], mask)
    train(model, optimizer)
    assert (model[3].weight[~mask] == 0).all()
    assert lock.sparsity["3.bias"] == (model[3].bias == 0).float().mean() == 0.25
    assert (model[3].weight[mask] != 0).all()


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (3, TypeError, "expected a mapping"),
        (
            {"3.wieght": torch.ones(16, 32, dtype=torch.bool)},
            ValueError,
            "no parameter '3.wieght'; close to it: '3.weight'",
        ),
        ({"3.weight": torch.ones(16, 32)}, TypeError, r"must be a bool tensor, got torch\.float32"),
        ({"3.weight": [True]}, TypeError, "must be a bool tensor, got list"),
        ({"3.weight": torch.ones(32, 16, dtype=torch.bool)}, ValueError, r"shape \[32, 16\], its parameter \[16, 32\]"),
    ],
)
def test_wrong_masks_change_nothing(masks, error, message):
    model = make()
    prune_(model, Prune(0.5))
    before = weights(model)
    with pytest.raises(error, match=message):
        MaskLock(model, masks=masks)
    lock = MaskLock(model)
    with pytest.raises(error, match=message):
        lock.load_state_dict(masks)
    assert set(lock.sparsity.values()) == {0.5}
    assert same(weights(model), before)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got str"):
        MaskLock("model")
    with pytest.raises(TypeError, match=r"expected a torch.optim.Optimizer, got float"):
        MaskLock(make(), 0.1)

"""Movement pruning: the scores are the paper's, and what grows is kept."""

import copy
import pickle

import pytest
import torch
from test_prune_lock import make, same, train, weights, zeros
from torch import nn
from torch.nn.utils import prune as torch_prune

from edgekern import AGP, GradualPruner, PerLayer, Prune, PruneError, prune_, prune_iteratively_

pytestmark = pytest.mark.usefixtures("one_thread")
MOVEMENT = Prune(0.5, method="movement")


def single(weight):
    layer = nn.Linear(len(weight), 1, bias=False)
    layer.weight.data = torch.tensor([weight])
    return nn.Sequential(layer)


def step(model, optimizer, gradient):
    model[0].weight.grad = torch.tensor([gradient])
    optimizer.step()


def test_scores_are_minus_weight_times_gradient_over_all_steps():
    model = single([1.0, -2.0, 3.0, 0.5])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = GradualPruner(model, MOVEMENT, AGP(5, 6), optimizer)
    step(model, optimizer, [1.0, 1.0, 0.0, -2.0])  # weights become 0.9, -2.1, 3, 0.7
    step(model, optimizer, [2.0, -1.0, 1.0, 0.0])
    expected = [-1.0 * 1 - 0.9 * 2, 2.0 * 1 + -2.1 * 1, -3.0, 0.5 * 2]
    assert pruner.state_dict()["movement"]["0"].flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_counts_the_gradients_it_makes(keyword):
    model = single([1.0, -2.0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = GradualPruner(model, MOVEMENT, AGP(5, 6), optimizer)

    def closure():
        optimizer.zero_grad()
        loss = (model[0].weight * torch.tensor([3.0, 1.0])).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert loss == 1.0
    assert pruner.state_dict()["movement"]["0"].tolist() == [[-3.0, 2.0]]


def test_what_grows_is_kept_however_small_it_is():
    """The target wants small weights to grow and large ones to vanish: magnitude keeps the wrong ones."""
    wanted = torch.tensor([1.0, 1.0, -1.0, 0.0, 0.0, 0.0])

    def learn(method):
        model = single([0.1, 0.2, -0.1, 2.0, -2.0, 1.5])
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
        pruner = GradualPruner(model, Prune(0.5, method=method), AGP(5, 15, every=5), optimizer)
        for _ in range(15):
            optimizer.zero_grad()
            (model[0].weight - wanted).square().sum().backward()
            optimizer.step()
            pruner.step()
        return (model[0].weight[0] != 0).tolist()

    assert learn("movement") == [True, True, True, False, False, False]
    assert learn("magnitude") == [False, False, False, True, True, True]


@pytest.mark.parametrize("make_optimizer", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
@pytest.mark.parametrize(
    "config",
    [
        Prune(0.75, method="movement"),
        Prune(0.75, "4x4", "movement"),
        Prune(0.75, method="movement", scope="global", min_sparsity=0.5, max_sparsity=0.9),
        PerLayer({"0": None, "3": Prune(0.75, "1x4", "movement"), "_default": Prune(0.5)}),
    ],
)
def test_it_rises_to_the_end_and_never_goes_back(config, make_optimizer):
    model = make()
    optimizer = make_optimizer(model.parameters(), 0.02)
    pruner = GradualPruner(model, config, AGP(begin=3, end=12, every=3), optimizer)
    gone, reports = zeros(model), []
    for seed in range(15):
        train(model, optimizer, 1, seed=seed)
        reports.append(pruner.step())
        now = zeros(model)
        assert all((now[name] | ~gone[name]).all() for name in now)
        gone = now
    assert [i + 1 for i, report in enumerate(reports) if report] == [3, 6, 9, 12]
    assert {row.method for row in reports[11].pruned} <= {"movement", "magnitude"}
    if isinstance(config, PerLayer):
        shares = {name: zero.float().mean().item() for name, zero in gone.items()}
        assert shares == pytest.approx({"0.weight": 0, "3.weight": 0.75, "5.weight": 0.5})
    else:
        total = sum(zero.numel() for zero in gone.values())
        assert sum(int(zero.sum()) for zero in gone.values()) == pytest.approx(
            0.75 * total, abs=20
        )  # of blocks, some cut


def test_global_compares_scores_across_layers():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    pruner = GradualPruner(model, Prune(0.5, method="movement", scope="global"), AGP(0, 1), optimizer)
    model[0].weight.grad = -model[0].weight.detach()  # grows
    model[1].weight.grad = model[1].weight.detach().clone()  # shrinks
    optimizer.step()
    assert [row.achieved for row in pruner.step()] == [0.0, 1.0]


def start(model):
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.1)
    return model, optimizer, GradualPruner(model, Prune(0.8, method="movement"), AGP(2, 9, every=2), optimizer)


def go(parts, steps):
    model, optimizer, pruner = parts
    for seed in steps:
        train(model, optimizer, 1, seed=seed)
        pruner.step()


def test_scores_resume_from_a_checkpoint():
    whole, half, resumed, forgetful = (start(make()) for _ in range(4))
    go(whole, range(12))
    go(half, range(5))
    saved = copy.deepcopy([part.state_dict() for part in half])
    for parts in (resumed, forgetful):
        for part, state in zip(parts, copy.deepcopy(saved), strict=True):
            if parts is forgetful and "movement" in state:
                state["movement"] = dict.fromkeys(state["movement"])
            part.load_state_dict(state)
        go(parts, range(5, 12))
    assert same(weights(whole[0]), weights(resumed[0]))
    assert not same(zeros(whole[0]), zeros(forgetful[0])), "else the scores before the checkpoint do not matter"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_goes_on_by_itself(duplicate):
    original = start(make())
    go(original, range(4))
    other = duplicate(original)
    go(original, range(4, 10))
    go(other, range(4, 10))
    assert same(weights(original[0]), weights(other[0]))
    assert same(original[2].state_dict()["movement"], other[2].state_dict()["movement"])


def test_a_state_of_other_layers_is_refused():
    pruner, state = start(make())[2], start(make())[2].state_dict()
    with pytest.raises(ValueError, match="holds no scores of method 'movement'"):
        pruner.load_state_dict({"steps": 3, "lock": {}})
    with pytest.raises(ValueError, match="for other layers than these; at odds over 5"):
        pruner.load_state_dict({**state, "movement": {"0": None, "3": None}})
    with pytest.raises(ValueError, match=r"scores of '3' have shape \[2\], not \[16, 32\]"):
        pruner.load_state_dict({**state, "movement": {"0": None, "3": torch.ones(2), "5": None}})
    assert pruner.steps == 0


def test_masks_of_torch_are_taken_over_first():
    model = make()
    torch_prune.l1_unstructured(model[3], "weight", 0.25)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = GradualPruner(model, PerLayer({"3": MOVEMENT}), AGP(1, 2, initial=0.3), optimizer)
    mask = pruner.lock.masks["3.weight"]
    for _ in range(2):
        train(model, optimizer, 1)
        pruner.step()
    assert (model[3].weight[~mask] == 0).all()
    assert pruner.lock.sparsity["3.weight"] == 0.5


def test_a_layer_without_gradients_is_left_alone():
    model = make()
    model[3].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = GradualPruner(model, MOVEMENT, AGP(0, 1), optimizer)
    with pytest.raises(PruneError, match="of each of 3 layers, no gradient has reached its weight"):
        pruner.step()
    train(model, optimizer, 1)
    pruner.steps = 0
    assert {row.name: row.reason for row in pruner.step().skipped} == {"3": "no gradient has reached its weight"}


def test_one_call_cannot_do_it_and_says_what_can():
    model = make()
    before = weights(model)
    for call in (lambda: prune_(model, MOVEMENT), lambda: prune_iteratively_(model, MOVEMENT, print, rounds=2)):
        with pytest.raises(PruneError, match=r"train with GradualPruner\(model, config, AGP\(...\), optimizer\)"):
            call()
    assert same(weights(model), before)
    with pytest.raises(ValueError, match=r"pass it: GradualPruner\(model, config, schedule, optimizer\)"):
        GradualPruner(model, MOVEMENT, AGP(1, 2))

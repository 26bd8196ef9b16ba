import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_prune_lock import make, same, train, weights, zeros
from torch import nn

from edgekern import AGP, GradualPruner, Int8, PerLayer, Prune, prune_iteratively_


def test_agp_is_the_cubic_of_the_paper():
    schedule = AGP(begin=10, end=110, every=30, initial=0.2)
    for step in range(10, 111):
        expected = 0.8 + (0.2 - 0.8) * (1 - (step - 10) / 100) ** 3
        assert schedule.sparsity(step, 0.8) == pytest.approx(expected)
    assert schedule.sparsity(0, 0.8) == pytest.approx(0.2)
    assert schedule.sparsity(500, 0.8) == 0.8
    assert [step for step in range(200) if schedule.due(step)] == [10, 40, 70, 100, 110]


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_agp_never_falls_and_stays_between(begin, length, one, other):
    initial, final = sorted((one, other))
    schedule = AGP(begin, begin + length, initial=initial)
    steps = [schedule.sparsity(step, final) for step in range(begin + length + 5)]
    assert steps == sorted(steps)
    assert steps[-1] == final
    assert steps[0] == pytest.approx(initial)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"begin": 0.5, "end": 2}, TypeError, "begin must be an int, got float"),
        ({"begin": 5, "end": 5}, ValueError, "0 <= begin < end, got begin 5 and end 5"),
        ({"begin": -1, "end": 5}, ValueError, "0 <= begin < end"),
        ({"begin": 0, "end": 5, "every": 0}, ValueError, "every >= 1"),
        ({"begin": 0, "end": 5, "initial": 1.5}, ValueError, "initial in 0 to 1"),
        ({"begin": 0, "end": 5, "initial": "0"}, TypeError, "initial must be a number"),
    ],
)
def test_wrong_schedules_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        AGP(**options)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (Prune(pattern="2:4"), ValueError, "'2:4' has one sparsity only"),
        (PerLayer({"_default": Prune(0.5, method="sparsegpt")}), ValueError, "'sparsegpt' cannot be gradual"),
        (Prune(0.1), ValueError, "initial 0.2 lies above the sparsity 0.1"),
        (Int8(), TypeError, "Int8 is for convert_"),
    ],
)
def test_what_cannot_be_gradual_is_refused_at_once(config, error, message):
    with pytest.raises(error, match=message):
        GradualPruner(make(), config, AGP(1, 5, initial=0.2))


def test_a_schedule_that_is_none():
    with pytest.raises(TypeError, match=r"expected AGP\(...\), got Prune"):
        GradualPruner(make(), Prune(0.5), Prune(0.5))


@pytest.mark.parametrize(
    "config",
    [
        Prune(0.75),
        Prune(0.75, scope="global", min_sparsity=0.5, max_sparsity=0.9),
        PerLayer({"0": None, "3": Prune(0.75, "4x4"), "_default": Prune(0.5, "1x4", method="random")}),
    ],
)
def test_gradual_pruning_reaches_its_end_and_never_goes_back(config):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    pruner = GradualPruner(model, config, AGP(begin=2, end=12, every=4), optimizer)
    gone, pruned_at = zeros(model), []
    for step in range(1, 16):
        train(model, optimizer, 1, seed=step)
        if pruner.step():
            pruned_at.append(step)
        now = zeros(model)
        assert all((now[name] | ~gone[name]).all() for name in now)
        gone = now
    assert pruned_at == [2, 6, 10, 12]
    shares = {name: zero.float().mean().item() for name, zero in gone.items()}
    if isinstance(config, PerLayer):
        assert shares == pytest.approx({"0.weight": 0, "3.weight": 0.75, "5.weight": 0.5})
    else:
        total = sum(int(zero.sum()) for zero in gone.values())
        assert total == 0.75 * sum(zero.numel() for zero in gone.values())


def test_gradual_wanda_takes_data_that_pass_once():
    model = make()
    batches = (torch.randn(4, 2, 4, 4) for _ in range(2))
    pruner = GradualPruner(model, Prune(0.5, method="wanda"), AGP(1, 3), data=batches)
    reports = [pruner.step() for _ in range(4)]
    assert [report is None for report in reports] == [False, False, False, True]
    assert reports[2].sparsity == pytest.approx(0.5, abs=0.01)
    assert reports[0].sparsity < reports[1].sparsity < reports[2].sparsity


def test_gradual_pruning_resumes():
    def start():
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)  # no state of its own
        return model, optimizer, GradualPruner(model, Prune(0.8), AGP(1, 9, every=2), optimizer)

    def go(parts, steps):
        model, optimizer, pruner = parts
        for step in steps:
            train(model, optimizer, 1, seed=step)
            pruner.step()

    whole = start()
    go(whole, range(12))
    half, resumed = start(), start()
    go(half, range(5))
    resumed[0].load_state_dict(half[0].state_dict())
    resumed[2].load_state_dict(copy.deepcopy(half[2].state_dict()))
    go(resumed, range(5, 12))
    assert same(weights(whole[0]), weights(resumed[0]))
    assert whole[2].steps == resumed[2].steps == 12


def test_rounds_remove_the_same_share_of_what_is_left():
    model, seen = make(), []

    def learn(model, lock):
        seen.append(lock.sparsity["3.weight"])
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        lock.attach(optimizer)
        train(model, optimizer, 3)

    report = prune_iteratively_(model, Prune(0.875), learn, rounds=3)
    assert seen == pytest.approx([0.5, 0.75, 0.875])
    assert report.sparsity == pytest.approx(0.875)
    assert zeros(model)["3.weight"].float().mean() == 0.875


def test_rewinding_gives_kept_weights_their_old_values():
    model = make()
    start = copy.deepcopy(model.state_dict())
    train(model, torch.optim.Adam(model.parameters(), 0.05))
    trained, rounds = weights(model), []

    def learn(model, lock):
        for name, weight in weights(model).items():
            assert torch.equal(weight, start[name] * lock.masks[name])
        rounds.append(lock.masks)
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        lock.attach(optimizer)
        train(model, optimizer, 2)

    prune_iteratively_(model, Prune(0.75), learn, rounds=2, rewind=start)
    # The first mask is of the trained weights, not of those that the model was rewound to.
    assert (
        trained["3.weight"].abs()[~rounds[0]["3.weight"]].max() < trained["3.weight"].abs()[rounds[0]["3.weight"]].min()
    )
    assert all((rounds[0][name] | ~rounds[1][name]).all() for name in rounds[0])
    assert same(zeros(model), {name: ~mask for name, mask in rounds[1].items()})


def test_n_of_m_takes_one_round():
    model = make()
    prune_iteratively_(model, Prune(pattern="2:4"), lambda model, lock: None, rounds=1)
    assert model[3].weight.detach().view(16, 8, 4).count_nonzero(2).unique().tolist() == [2]
    with pytest.raises(ValueError, match="has one sparsity only"):
        prune_iteratively_(model, Prune(pattern="2:4"), lambda model, lock: None, rounds=2)


def test_iterating_checks_its_arguments():
    with pytest.raises(ValueError, match="rounds must be 1 or more, got 0"):
        prune_iteratively_(nn.Linear(4, 4), Prune(0.5), print, rounds=0)
    with pytest.raises(TypeError, match=r"expected a function \(model, lock\), got int"):
        prune_iteratively_(nn.Linear(4, 4), Prune(0.5), 3, rounds=1)

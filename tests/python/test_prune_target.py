"""Prune(target=...): what zeros would not make faster is left alone, and the report says why."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from test_prune_lock import make as make_small
from test_prune_lock import train
from torch import nn

from edgekern import AGP, GradualPruner, PerLayer, Prune, PruneError, kernels, prune_, sensitivity
from edgekern.config import parse_pattern
from edgekern.prune.patterns import pattern_of
from edgekern.targets import TARGETS, judge, resolve, skipped

pytestmark = pytest.mark.usefixtures("one_thread")


def make():
    torch.manual_seed(0)
    return nn.ModuleDict({"conv": nn.Conv2d(8, 8, 1), "up": nn.Linear(64, 64), "down": nn.Linear(64, 64)})


def pays_at(target, pattern, share):
    return judge(target, parse_pattern(pattern), share).pays_at


def test_the_table_has_every_isa_of_the_build():
    rows = Path(__file__).resolve().parents[2] / "cmake" / "isa_table.cmake"
    names = re.findall(r'^  "(\w+) *\|', rows.read_text(), flags=re.MULTILINE)
    assert set(TARGETS) == set(names)
    assert {row["name"] for row in kernels.isas()} <= set(TARGETS)
    assert resolve("this CPU") == kernels.default_isa()


@pytest.mark.parametrize(
    ("target", "pattern", "share", "expected"),
    [
        ("avx512_vnni", "4x4", 0.5, "any M"),
        ("avx512_vnni", "1x4", 0.3, "M <= 4"),
        ("avx512_vnni", "1x4", 0.5, "any M"),
        ("avx512_vbmi2", "unstructured", 0.5, "M <= 4"),
        ("avx512_vbmi2", "unstructured", 0.7, "any M"),
        ("avx512_vnni", "unstructured", 0.65, "M >= 32"),
        ("avx512_vbmi2", "unstructured", 0.8, "any M"),
        ("avx512_vbmi2", "unstructured", 0.1, ""),
        ("avx512_vbmi2", "2:4", 0.5, "M <= 4"),
        ("avx512_vnni", "1:8", 0.875, "any M"),
        ("avx2", "unstructured", 0.5, ""),
        ("avx2", "unstructured", 0.65, "M >= 16"),
        ("avx2", "2:4", 0.5, ""),
        ("avx2", "1x2", 0.5, "any M"),
        ("neon_i8mm", "1x4", 0.5, "M <= 4"),
        ("neon_i8mm", "1x4", 0.6, "any M"),
        ("neon", "8x2", 0.3, "any M"),
    ],
)
def test_patterns_pay_from_their_break_even_on(target, pattern, share, expected):
    assert pays_at(target, pattern, share) == expected


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "4x4", "2x3"])
def test_more_zeros_never_pay_less(target, pattern):
    gains = [
        {"": 0, "M <= 4": 1, "M >= 16": 1, "M >= 32": 1, "any M": 2}[pays_at(target, pattern, s / 50)]
        for s in range(51)
    ]
    assert gains == sorted(gains)
    assert gains[-1] == (0 if target == "scalar" else 2)


@pytest.mark.parametrize(
    ("pattern", "width"),
    [*product(["unstructured", "1x2", "1x4", "4x4", "1x8", "2:4", "4:8", "1:8", "2:8", "1:4"], [1, 2, 4]), ("1:2", 1)],
)
def test_the_expected_share_of_empty_runs_is_that_of_random_masks(pattern, width):
    generator = torch.Generator().manual_seed(0)
    kind, first, second = parse_pattern(pattern)
    share = 1 - first / second if kind == "N:M" else 0.7
    keep = pattern_of(pattern).keep(torch.rand(256, 512, generator=generator), share)
    measured = (~keep).view(256, -1, width).all(2).float().mean().item()
    assert skipped(parse_pattern(pattern), share, width) == pytest.approx(measured, abs=0.02)


def test_patterns_that_do_not_divide_a_run_count_as_at_their_worst():
    generator = torch.Generator().manual_seed(0)
    for pattern, width in (("1x3", 4), ("1x6", 4), ("1x3", 2)):
        keep = pattern_of(pattern).keep(torch.rand(256, 504, generator=generator), 0.7)
        measured = (~keep).view(256, -1, width).all(2).float().mean().item()
        assert 0.4 < skipped(parse_pattern(pattern), 0.7, width) <= measured + 0.02


def test_what_gains_nothing_is_left_alone_with_the_reason():
    model = make()
    rules = {"up": Prune(0.8, "4x4", target="avx2"), "_default": Prune(0.5, target="avx2")}
    report = prune_(model, PerLayer(rules))
    assert [(row.name, row.pays_at) for row in report.pruned] == [("up", "any M")]
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons["conv"] == "what a Conv2d gains on avx2 depends on the size of images; convert_ measures it"
    assert reasons["down"] == (
        "on avx2 its zeros gain nothing: M >= 16 needs 33% of its 1x2 blocks empty, expected are 25%; "
        "M >= 32 needs 60% of its weights empty, expected are 50%; "
        "M <= 4 needs 25% of its 1x4 blocks empty, expected are 6%"
    )
    assert "pays at" in str(report)
    assert (model["down"].weight != 0).all()


def test_without_a_target_nothing_is_said_of_it():
    assert "pays at" not in str(prune_(make(), Prune(0.5)))


def test_a_named_layer_that_gains_nothing_is_an_error():
    with pytest.raises(PruneError, match=r"'conv' is named but cannot be pruned: what a Conv2d gains"):
        prune_(make(), PerLayer({"conv": Prune(0.8, "4x4", target="neon"), "_default": Prune(0.5)}))


def test_nothing_that_gains_is_an_error():
    with pytest.raises(PruneError, match=r"'up' \(2 such\): scalar has no sparse kernels that gain"):
        prune_(make(), Prune(0.9, "4x4", target="scalar"))


def test_scopes_that_vary_are_judged_by_their_floor():
    config = {"pattern": "1x4", "scope": "global", "target": "neon_dotprod"}
    with pytest.raises(PruneError, match="expected are 10%"):
        prune_(make(), Prune(0.8, min_sparsity=0.1, **config))
    assert len(prune_(make(), Prune(0.8, min_sparsity=0.4, **config)).pruned) == 2


def test_gradual_pruning_is_judged_by_its_end():
    model = make_small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = GradualPruner(model, Prune(0.8, "1x4", target="avx_vnni"), AGP(1, 4, every=1), optimizer)
    reports = []
    for seed in range(4):
        train(model, optimizer, 1, seed=seed)
        reports.append(pruner.step())
    assert reports[0].sparsity == 0
    assert reports[3].sparsity == pytest.approx(0.8, abs=0.02)
    for report in reports:
        assert {row.name: row.reason for row in report.skipped} == {
            "0": "what a Conv2d gains on avx_vnni depends on the size of images; convert_ measures it"
        }


def test_a_scan_looks_at_what_gains_at_all_sparsities():
    model = make_small()
    config = Prune(0.8, "1x4", target="avx_vnni")
    found = sensitivity(
        model, "mse", [torch.randn(2, 2, 4, 4)], config, sparsities=[0.1, 0.9], latency=False, progress=False
    )
    assert [(row.name, row.scheme.share) for row in found] == [("3", 0.1), ("3", 0.9), ("5", 0.1), ("5", 0.9)]
    assert found.left_alone == {
        "0": "what a Conv2d gains on avx_vnni depends on the size of images; convert_ measures it"
    }

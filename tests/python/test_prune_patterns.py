"""Patterns against brute force: what is kept is best, the count is exact, and the shape is that of the pattern."""

import itertools
import math
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekern.calibration.matrix import from_matrix, to_matrix
from edgekern.config import parse_pattern
from edgekern.prune.patterns import Blocks, NOfM, lowest, nearest, pattern_of

sizes = st.integers(1, 13)
shares = st.floats(0, 1)


@st.composite
def matrices(draw, distinct=True):
    rows, columns = draw(sizes), draw(sizes)
    if distinct:
        values = draw(st.permutations(range(rows * columns)))
    else:
        values = draw(st.lists(st.integers(0, 2), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float32).view(rows, columns)


def half_up(value):
    return int(Decimal(value).to_integral_value(ROUND_HALF_UP))


def blocks_of(rows, columns, height, width):
    for top, left in itertools.product(range(0, rows, height), range(0, columns, width)):
        yield slice(top, top + height), slice(left, left + width)


@given(matrices(), shares)
def test_unstructured_keeps_the_largest_exactly(scores, share):
    keep = Blocks(1, 1).keep(scores, share)
    count = half_up(share * scores.numel())
    gone = sorted(scores.flatten().tolist())[:count]
    assert sorted(scores[~keep].tolist()) == gone


@given(matrices(), shares, st.sampled_from([(1, 4), (4, 1), (4, 4), (2, 3), (16, 16)]))
def test_blocks_go_whole_and_the_weakest_first(scores, share, block):
    keep = Blocks(*block).keep(scores, share)
    means = {}
    for at in blocks_of(*scores.shape, *block):
        assert keep[at].all() or not keep[at].any()
        means[at[0].start, at[1].start] = (scores[at].mean().item(), bool(keep[at][0, 0]))
    gone = [mean for mean, kept in means.values() if not kept]
    assert len(gone) == half_up(share * len(means))
    assert max(gone, default=-1) <= min((mean for mean, kept in means.values() if kept), default=math.inf) + 1e-4


@given(matrices(), st.sampled_from(["unstructured", "4x4", "2x3", "2:4"]))
def test_units_are_counted_without_scores(scores, name):
    pattern = pattern_of(name)
    assert pattern.units(*scores.shape) == pattern.unit_scores(scores).shape


@given(matrices(), shares)
def test_by_row_every_row_loses_the_same(scores, share):
    keep = Blocks(1, 1).keep(scores, share, by_row=True)
    for row, kept in zip(scores, keep, strict=True):
        assert (~kept).sum() == half_up(share * len(row))
        assert max(row[~kept].tolist(), default=-1) < min(row[kept].tolist(), default=math.inf)


@given(matrices(), st.sampled_from([(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)]))
def test_n_of_m_keeps_the_best_of_all_choices(scores, n_of_m):
    n, m = n_of_m
    keep = NOfM(n, m).keep(scores, 1 - n / m)
    for row, kept in zip(scores, keep, strict=True):
        for left in range(0, len(row), m):
            group, chosen = row[left : left + m], kept[left : left + m]
            best = max(
                itertools.combinations(range(len(group)), min(n, len(group))),
                key=lambda c: sum(group[list(c)].tolist()),
            )
            assert set(best) == set(chosen.nonzero().flatten().tolist())


@given(matrices(distinct=False), shares, st.sampled_from(["unstructured", "2x2", "1x4"]))
def test_ties_go_in_row_major_order(scores, share, name):
    pattern = pattern_of(name)
    _, height, width = parse_pattern(name)
    keep = pattern.keep(scores, share)
    assert torch.equal(keep, pattern.keep(scores.clone(), share))
    decided = [
        (round(scores[at].mean().item(), 5), bool(keep[at][0, 0])) for at in blocks_of(*scores.shape, height, width)
    ]
    for value in {mean for mean, _ in decided}:
        kept = [kept for mean, kept in decided if mean == value]
        assert kept == sorted(kept), "of equals, the first ones go"


def test_n_of_m_ties_go_from_the_left():
    assert NOfM(2, 4).keep(torch.ones(1, 6), 0.5).tolist() == [[False, False, True, True, True, True]]


@given(matrices(), st.lists(shares, min_size=2, max_size=2))
def test_more_sparsity_removes_more_of_the_same(scores, pair):
    less, more = sorted(pair)
    pattern = Blocks(2, 2)
    assert not (pattern.keep(scores, more) & ~pattern.keep(scores, less)).any()


def test_a_cut_block_competes_by_its_mean():
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0, 3.0]])  # a sum would send the cut block, 3, before the whole one, 4
    assert Blocks(1, 4).keep(scores, 0.5).tolist() == [[False] * 4 + [True]]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.49, 2), (0.0, 0), (math.nextafter(0.5, 0), 0)]
)
def test_nearest_rounds_half_up(value, expected):
    assert nearest(value) == expected


def test_lowest_takes_the_first_of_equals():
    assert lowest(torch.tensor([[2.0, 1.0, 1.0, 1.0]]), 2).tolist() == [[False, True, True, False]]


def test_misfits_are_told():
    assert Blocks(4, 4).misfit(4, 4) == NOfM(2, 4).misfit(1, 4) == ""
    assert "smaller than one 4x4 block" in Blocks(4, 4).misfit(3, 8)
    assert "shorter than one group of 4" in NOfM(2, 4).misfit(9, 3)


@given(st.tuples(*[st.integers(1, 4)] * 4))
@settings(max_examples=20)
def test_a_convolution_is_read_channels_innermost(shape):
    weight = torch.arange(float(math.prod(shape))).view(shape)
    matrix = to_matrix(weight)
    out, channels, height, width = shape
    for o, c, y, x in itertools.product(*map(range, shape)):
        assert matrix[o, (y * width + x) * channels + c] == weight[o, c, y, x]
    assert torch.equal(from_matrix(matrix, weight), weight)
    assert matrix.shape == (out, channels * height * width)

"""What sparsity buys on each instruction set: the policy behind ``Prune(target=...)``.

The gain of a pruned layer lies in zeros that a kernel skips (inputs of many rows: whole blocks from M >= 16 on, single
weights from M >= 32 on), or in bytes that need not be read (a few rows, M <= 4: decoding). Of convolutions nothing is
said: M is what the size of images makes it.

One table holds it all. Correct a figure there when a measurement says so; nothing else knows about instruction sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekern import kernels

THIS_CPU = "this CPU"


@dataclass(frozen=True)
class Sparse:
    """From which share on skipping is faster than the dense int8 kernel of the same instruction set."""

    depth: int
    """Columns (k) that the kernel for many rows skips together, being the operands of one dot-product instruction."""
    many: dict[int, float]
    """M >= 16: by the rows of a block that share each load of activations, the share of blocks to be skipped."""
    single: float
    """M >= 32: the share of weights to be zero when none but the others are multiplied, wherever they stand."""
    few: dict[int, float]
    """M <= 4: by the weights that one bit of the bitmap stands for in a row, the share of bits to be zero."""


# Where these come from: micro-kernels timed before there were kernels, on one Zen 5 core with AVX-512 VNNI, and counts
# of loads. For the other sets they are taken over or estimated. Measurements of the kernels themselves replace them.

# For many rows the loads decide: blocks of one row reach es = 0.54 of the machine's peak, of two 0.84, of four 0.93,
# where the dense kernel reaches ed = 0.85. Skipping a share s pays when (es / ed) / (1 - s) > 1: of two or four, any.
_MANY = {1: 0.36, 2: 0.01, 4: 0.01}
# Measured with the kernels on Zen 3, 128 rows of a 768 x 3072 layer: an unstructured mask that leaves 75 % of its 1x2
# blocks takes 1.2 times the dense time, and whole 4x4 blocks break even at a quarter removed.
_MANY_MEASURED_ON_AVX2 = {1: 0.33, 2: 0.25, 4: 0.25}
# The same on sdot against a dense kernel on smmla, which multiplies twice as many numbers: es counts half. NEON holds
# the weights of four blocks in a register, and reaches 0.8 with single rows.
_MANY_AGAINST_SMMLA = {1: 0.53, 2: 0.51, 4: 0.45}
# Single weights have the activations of any k put side by side first, which takes the time of two or three products.
# Measured with the kernels on Zen 4, 64 and 128 rows of 768 x 3072: 0.94 times as fast as dense at 50 %, 1.07 times at
# 60 % and 1.5 times at 70 % with AVX-512, 0.9, 1.2 and 1.6 with AVX2. ARM's sets are estimated from the instructions.
_SINGLE, _SINGLE_ON_SDOT, _SINGLE_AGAINST_SMMLA = 0.6, 0.7, 0.85
# For few rows the bytes decide: 1/8 + d of the dense ones for a density d, or 1/32 + d with a bit for each four
# weights. They pay below 90 %: with half the weights, AVX-512 with VBMI2 gave 90 % of what the bytes promise.
_FEW = {1: 0.23, 4: 0.13}
# AVX2 expands single bytes no faster than one core streams dense weights, but blocks of four twice as fast.
_FEW_BY_LOOKUP = {4: 0.25}

TARGETS: dict[str, Sparse] = {
    "avx512_vbmi2": Sparse(depth=4, many=_MANY, single=_SINGLE, few=_FEW),
    "avx512_vnni": Sparse(depth=4, many=_MANY, single=_SINGLE, few=_FEW_BY_LOOKUP),
    "avx_vnni": Sparse(depth=4, many=_MANY, single=_SINGLE, few=_FEW_BY_LOOKUP),
    "avx2": Sparse(depth=2, many=_MANY_MEASURED_ON_AVX2, single=_SINGLE, few=_FEW_BY_LOOKUP),
    "neon_i8mm": Sparse(depth=4, many=_MANY_AGAINST_SMMLA, single=_SINGLE_AGAINST_SMMLA, few=_FEW),
    "neon_dotprod": Sparse(depth=4, many=_MANY, single=_SINGLE_ON_SDOT, few=_FEW),
    "neon": Sparse(depth=2, many=_MANY, single=_SINGLE, few=_FEW),
    "scalar": Sparse(depth=1, many={}, single=1.0, few={}),  # the reference: nothing is promised
}


@dataclass(frozen=True)
class Verdict:
    """Whether a layer gains."""

    pays_at: str
    """Rows of input at which it does: "any M", "M >= 16", "M >= 32" or "M <= 4"; empty when it does not."""
    reason: str
    """Why it does not; empty when it does."""


def resolve(target: str) -> str:
    """The instruction set that ``target`` names: itself, or the one in use for "this CPU".

    Raises:
        ValueError: an unknown name.
    """
    if target == THIS_CPU:
        return kernels.default_isa()
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; this version knows {THIS_CPU!r}, {', '.join(TARGETS)}")
    return target


def judge(target: str, pattern: tuple[str, int, int], share: float) -> Verdict:
    """Whether a linear layer without ``share`` of its weights is faster on ``target``.

    Args:
        target: as for ``resolve``.
        pattern: as ``parse_pattern`` returns it.
        share: of the weights removed, as if at random among those that the pattern allows.
    """
    isa = resolve(target)
    sparse = TARGETS[isa]
    if not sparse.many and not sparse.few:
        return Verdict("", f"{isa} has no sparse kernels that gain")
    rows = _shared_rows(pattern, sparse.many)
    blocks = skipped(pattern, share, sparse.depth) >= sparse.many[rows]
    many = blocks or share >= sparse.single
    few = any(skipped(pattern, share, grain) >= least for grain, least in sparse.few.items())
    if many or few:
        least = "M >= 16" if blocks else "M >= 32"
        return Verdict("any M" if many and few else least if many else "M <= 4", "")
    shortfalls = [_shortfall(pattern, share, rows, sparse.depth, sparse.many[rows], "M >= 16")]
    shortfalls.append(_shortfall(pattern, share, 1, 1, sparse.single, "M >= 32"))
    shortfalls += [_shortfall(pattern, share, 1, grain, least, "M <= 4") for grain, least in sparse.few.items()]
    return Verdict("", f"on {isa} its zeros gain nothing: " + "; ".join(shortfalls))


def skipped(pattern: tuple[str, int, int], share: float, width: int) -> float:
    """Expected share of aligned runs of ``width`` columns that are zero throughout."""
    kind, first, second = pattern
    if kind == "N:M":
        # Of all ways to keep N of M, those that keep nothing in a given run.
        return math.comb(second - width, first) / math.comb(second, first) if second % width == 0 else 0.0
    if second % width == 0:
        return share
    # Pattern blocks that a run meets, all of which have to be gone: at worst, where they do not divide it.
    met = width // second if width % second == 0 else (width - 2) // second + 2
    return share**met


def _shared_rows(pattern: tuple[str, int, int], many: dict[int, float]) -> int:
    """Rows of the largest kernel block that the pattern's blocks are made of."""
    kind, height, _ = pattern
    return max(rows for rows in many if rows == 1 or (kind == "RxC" and height % rows == 0))


def _shortfall(pattern: tuple[str, int, int], share: float, rows: int, width: int, least: float, where: str) -> str:
    blocks = "weights" if rows == width == 1 else f"{rows}x{width} blocks"
    return f"{where} needs {least:.0%} of its {blocks} empty, expected are {skipped(pattern, share, width):.0%}"

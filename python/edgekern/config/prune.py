"""The scheme of ``prune_``: which weights become zero."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_choice, check_count, check_number, kind_of
from edgekern.config.formats import Int4, Int8
from edgekern.config.scheme import Scheme
from edgekern.targets import THIS_CPU, resolve

CALIBRATED_METHODS = ("wanda", "sparsegpt")
PRUNE_METHODS = ("magnitude", "wanda", "sparsegpt", "movement", "random")
PRUNE_SCOPES = ("local", "global", "owl")


@dataclass(frozen=True, repr=False)
class Prune(Scheme):
    """Some of a float layer's weights set to zero, for ``prune_``.

    Patterns see the weight as a matrix [out, in]; that of a convolution as [out, kernel height x kernel width x in].

    Attributes:
        sparsity: share of the weights to remove, 0 to 1. ``"N:M"`` settles it as 1 - N/M, and it may then be left out.
        pattern: ``"unstructured"``; ``"N:M"`` as ``"2:4"``: at most N of M neighbours in a row are kept; ``"RxC"`` as
            ``"4x4"`` or ``"1x4"``: blocks of R rows and C columns are kept or removed as a whole.
        method: ``"magnitude"``, ``"wanda"`` (arXiv 2306.11695), ``"sparsegpt"`` (arXiv 2301.00774; both need
            calibration data), ``"movement"`` (arXiv 2005.07683; only ``GradualPruner`` can), or ``"random"``, the
            baseline to beat.
        scope: ``"local"`` removes the same share of every layer. ``"global"`` (magnitude and random) compares weights
            across all layers under one rule. ``"owl"`` (arXiv 2310.05175; needs calibration data) removes less from
            layers with more outliers.
        min_sparsity: least share removed from any one layer, for the scopes that vary it.
        max_sparsity: largest share removed from any one layer, likewise.
        seed: of ``"random"``.
        damping: SparseGPT: added to the Hessian's diagonal, as a share of its mean.
        block_size: SparseGPT: columns that choose their mask together; a multiple of the pattern's width.
        joint: SparseGPT: ``Int8()`` or ``Int4(...)`` also rounds the weights kept to what converting to that will round
            them to, and lets the others make up for it.
        outlier_factor: OWL: an outlier's score is more than this many times its layer's mean score.
        spread: OWL: how far shares may differ, from the mean to either side, before the floor and the ceiling.
        target: leaves alone what zeros would not make faster on ``"this CPU"`` or an instruction set, as
            ``"neon_dotprod"``: layers other than linear ones, and sparsities below break-even for the pattern.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range, or options that do not go together.
    """

    format: ClassVar[str] = "prune"
    carried_out_by: ClassVar[str] = "prune_"

    sparsity: float | None = None
    pattern: str = "unstructured"
    method: str = "magnitude"
    scope: str = "local"
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    seed: int = 0
    damping: float = 0.01
    block_size: int = 128
    joint: Int8 | Int4 | None = None
    outlier_factor: float = 5.0
    spread: float = 0.08
    target: str | None = None

    def __post_init__(self) -> None:
        kind, first, second = parse_pattern(self.pattern)
        check_choice("method", self.method, PRUNE_METHODS, "Prune")
        check_choice("scope", self.scope, PRUNE_SCOPES, "Prune")
        if kind == "N:M":
            object.__setattr__(self, "sparsity", _settled_sparsity(self.sparsity, first, second, self.pattern))
        elif self.sparsity is None:
            raise TypeError(f"Prune: sparsity: the pattern {self.pattern!r} needs one, as Prune(0.5, {self.pattern!r})")
        for name in ("sparsity", "min_sparsity", "max_sparsity", "damping", "outlier_factor", "spread"):
            most = 1.0 if "sparsity" in name or name == "spread" else math.inf
            check_number(name, getattr(self, name), most, "Prune")
        for name, least in (("seed", 0), ("block_size", 1)):
            check_count(name, getattr(self, name), least, "Prune")
        _check_joint(self.joint, self.method)
        _check_target(self.target)
        self._check_together(kind, second)

    @property
    def share(self) -> float:
        """The sparsity, which is always known once this is made."""
        assert self.sparsity is not None
        return self.sparsity

    @property
    def needs_data(self) -> bool:
        """Whether it takes calibration data to carry this out."""
        return self.method in CALIBRATED_METHODS or self.scope == "owl"

    def _check_together(self, kind: str, width: int) -> None:
        if self.scope != "local" and kind == "N:M":
            raise ValueError(f"Prune: pattern {self.pattern!r} removes the same share everywhere; use scope='local'")
        if self.scope == "global" and self.method in CALIBRATED_METHODS:
            raise ValueError(
                f"Prune: scores of method {self.method!r} do not compare across layers; use scope='owl' to vary the "
                "sparsity by layer, or method='magnitude'"
            )
        if not self.min_sparsity <= self.share <= self.max_sparsity:
            raise ValueError(
                f"Prune: sparsity {self.sparsity} lies outside of min_sparsity {self.min_sparsity} "
                f"to max_sparsity {self.max_sparsity}"
            )
        if self.scope == "local" and (self.min_sparsity, self.max_sparsity) != (0.0, 1.0):
            raise ValueError("Prune: min_sparsity and max_sparsity bound the scopes 'global' and 'owl', not 'local'")
        if self.method == "sparsegpt" and self.block_size % width:
            raise ValueError(
                f"Prune: block_size must be a multiple of the width of pattern {self.pattern!r}, {width}; "
                f"got {self.block_size}"
            )


def parse_pattern(text: object) -> tuple[str, int, int]:
    """``("N:M", N, M)`` or ``("RxC", R, C)`` for a pattern's name; ``"unstructured"`` is blocks of 1x1.

    Raises:
        TypeError: not a string.
        ValueError: no such pattern; N must lie below M.
    """
    if not isinstance(text, str):
        raise TypeError(f"Prune: pattern must be a string such as '2:4' or '4x4', got {kind_of(text)}")
    if text == "unstructured":
        return "RxC", 1, 1
    found = re.fullmatch(r"([1-9]\d{0,3})([:x])([1-9]\d{0,3})", text)
    if found is None:
        raise ValueError(f"Prune: unknown pattern {text!r}; expected 'unstructured', 'N:M' as '2:4', or 'RxC' as '4x4'")
    first, second = int(found[1]), int(found[3])
    if found[2] == "x":
        return "RxC", first, second
    if first >= second:
        raise ValueError(f"Prune: pattern {text!r} would keep everything; N of 'N:M' must be less than M, as in '2:4'")
    return "N:M", first, second


def _settled_sparsity(given: object, kept: int, of: int, pattern: str) -> object:
    """The sparsity that N:M means, unless another kind of thing was given, which is refused later."""
    settled = 1 - kept / of
    if isinstance(given, int | float) and abs(given - settled) > 1e-6:
        raise ValueError(f"Prune: sparsity {given} does not go with pattern {pattern!r}, which means {settled:g}")
    return settled if given is None or isinstance(given, int | float) else given


def _check_joint(value: object, method: str) -> None:
    if value is None:
        return
    if not isinstance(value, Int8 | Int4):
        raise TypeError(f"Prune: joint must be Int8(), Int4() or None, got {kind_of(value)}")
    if method != "sparsegpt":
        raise ValueError(f"Prune: joint rounding is for method='sparsegpt'; with {method!r}, prune and then convert")
    if value is not None and value.needs_data:
        raise ValueError(
            f"Prune: joint rounds weights, and ranges of activations are convert_'s to find; got {value!r}"
        )


def _check_target(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"Prune: target must be a string such as {THIS_CPU!r} or 'avx2', got {kind_of(value)}")
    try:
        resolve(value)
    except ValueError as error:
        raise ValueError(f"Prune: {error}") from None

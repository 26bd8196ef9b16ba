"""Schemes and configurations: plain frozen data that says what a layer shall become.

They are checked when made, compare by value, and turn into JSON-ready dictionaries and back. Reading a dictionary looks
its format up in a closed table, so a string from a file can never name something to import.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from edgekern.kernels import F32_CHANNELS, FORMS
from edgekern.targets import THIS_CPU, resolve

MEASURED = "measured"
"""In place of a form: the one that measures best on this CPU."""


class Scheme:
    """Base of every scheme: what shall become of one layer."""

    format: ClassVar[str]
    carried_out_by: ClassVar[str] = "convert_"
    """The function that takes it."""
    rounds: ClassVar[bool] = False
    """Whether weights come out with other values."""

    def to_dict(self) -> dict[str, Any]:
        """This scheme as JSON-ready data: its format, and the options that are not their defaults."""
        options = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                options[field.name] = _plain(value)
        return {"format": self.format, **options}

    def __repr__(self) -> str:
        """As it would be written: options that have their default are left out."""
        options = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        written = ", ".join(f"{name}={value!r}" for name, value, default in options if value != default)
        return f"{type(self).__name__}({written})"


def _plain(value: object) -> object:
    if isinstance(value, Scheme):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, repr=False)
class Int8(Scheme):
    """Eight-bit weights and activations (W8A8), nothing to calibrate.

    Weights are signed, symmetric, with one float32 scale per output channel. Activations are quantised while the layer
    runs, each row (token) with its own scale and zero point. Sums are exact int32; results have the dtype of the input.

    Pruned weights stay zero. Whether they make a layer faster depends on the mask and on the CPU, so by default the
    forms that weights can be packed in are measured for each pruned layer, and a sparse form is taken when it is faster
    on the whole, at none of ``rows`` slower than the dense form, and not larger.

    Attributes:
        form: ``"measured"``, or a form: a key of :data:`edgekern.kernels.FORMS`.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
        packings: 1, or 2 for two forms of the weights in memory where that is faster: one for few rows, one for many.
    """

    format: ClassVar[str] = "int8"
    rounds: ClassVar[bool] = True

    form: str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)
    packings: int = 1

    def __post_init__(self) -> None:
        _check_choice("form", self.form, (MEASURED, *FORMS), "Int8")
        object.__setattr__(self, "rows", _settled_rows(self.rows, "Int8"))
        if self.packings not in (1, 2) or isinstance(self.packings, bool):
            raise ValueError(f"Int8: packings must be 1 or 2, got {self.packings!r}")


@dataclass(frozen=True, repr=False)
class Float32(Scheme):
    """Pruned weights that stay floats, packed without their zeros.

    For models that are not to be quantised: no weight and no activation is rounded, and sums are float32. A layer is
    packed when that is faster on the whole, at none of ``rows`` slower than PyTorch's own dense layer, and not larger;
    any other stays the nn.Linear it is, and the report says why. Float16 and bfloat16 weights are packed as float32.

    Attributes:
        channels: ``"measured"``, or 1, 2, 4 or 8: output channels of a block, which is kept when any of its weights is
            not zero. 1 keeps the fewest weights; more are faster where the zeros come in blocks of that height. A
            number is taken without measuring, where it is not larger than the dense layer.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
    """

    format: ClassVar[str] = "f32"

    channels: int | str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)

    def __post_init__(self) -> None:
        if self.channels != MEASURED and (type(self.channels) is not int or self.channels not in F32_CHANNELS):
            known = ", ".join(map(str, F32_CHANNELS))
            raise ValueError(f"Float32: channels must be {MEASURED!r} or one of {known}; got {self.channels!r}")
        object.__setattr__(self, "rows", _settled_rows(self.rows, "Float32"))


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
        joint: SparseGPT: ``Int8()`` also rounds the weights kept to what converting to that will round them to, and
            lets the others make up for it.
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
    joint: Int8 | None = None
    outlier_factor: float = 5.0
    spread: float = 0.08
    target: str | None = None

    def __post_init__(self) -> None:
        kind, first, second = parse_pattern(self.pattern)
        _check_choice("method", self.method, PRUNE_METHODS)
        _check_choice("scope", self.scope, PRUNE_SCOPES)
        if kind == "N:M":
            object.__setattr__(self, "sparsity", _settled_sparsity(self.sparsity, first, second, self.pattern))
        elif self.sparsity is None:
            raise TypeError(f"Prune: sparsity: the pattern {self.pattern!r} needs one, as Prune(0.5, {self.pattern!r})")
        for name in ("sparsity", "min_sparsity", "max_sparsity", "damping", "outlier_factor", "spread"):
            _check_number(name, getattr(self, name), most=1.0 if "sparsity" in name or name == "spread" else math.inf)
        for name, least in (("seed", 0), ("block_size", 1)):
            _check_count(name, getattr(self, name), least)
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


@dataclass(frozen=True)
class Shrink(Scheme):
    """Some of a float model's channels and attention heads taken out, for ``shrink_``.

    Attributes:
        sparsity: share of the units, channels or heads, to remove, 0 to 1. At least one step of ``round_to`` stays.
        method: ``"magnitude"``, the L2 norm of all weights that go with a unit; ``"wanda"``, how much a unit adds to
            the layers that read it (needs data); ``"random"``, the baseline to beat.
        scope: ``"local"`` removes the same share of every group of units; ``"global"`` (magnitude and random) compares
            units across all groups under one rule, each score divided by the mean of its group.
        min_sparsity: least share removed from any one group, for "global", before rounding.
        max_sparsity: largest share removed from any one group, likewise.
        round_to: the channels left are a multiple of this, where there were as many, so that kernels have full tiles.
        through_norms: also takes channels out of what a layer or RMS norm is computed over, as in the width of a
            transformer. The norm then sees other channels, so even a channel of zeros does not go unnoticed.
        seed: of ``"random"``.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range, or options that do not go together.
    """

    format: ClassVar[str] = "shrink"
    carried_out_by: ClassVar[str] = "shrink_"

    sparsity: float
    method: str = "magnitude"
    scope: str = "local"
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    round_to: int = 8
    through_norms: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice("method", self.method, SHRINK_METHODS, "Shrink")
        _check_choice("scope", self.scope, SHRINK_SCOPES, "Shrink")
        for name in ("sparsity", "min_sparsity", "max_sparsity"):
            _check_number(name, getattr(self, name), most=1.0, scheme="Shrink")
        for name, least in (("round_to", 1), ("seed", 0)):
            _check_count(name, getattr(self, name), least, "Shrink")
        if not isinstance(self.through_norms, bool):
            raise TypeError(f"Shrink: through_norms must be a bool, got {_kind(self.through_norms)}")
        if self.scope == "global" and self.method == "wanda":
            raise ValueError("Shrink: scores of method 'wanda' do not compare across groups; use scope='local'")
        if self.scope == "local" and (self.min_sparsity, self.max_sparsity) != (0.0, 1.0):
            raise ValueError("Shrink: min_sparsity and max_sparsity bound the scope 'global', not 'local'")
        if not self.min_sparsity <= self.sparsity <= self.max_sparsity:
            raise ValueError(
                f"Shrink: sparsity {self.sparsity} lies outside of min_sparsity {self.min_sparsity} "
                f"to max_sparsity {self.max_sparsity}"
            )

    @property
    def share(self) -> float:
        """The sparsity, under the name that all schemes with a budget have for it."""
        return self.sparsity


CALIBRATED_METHODS = ("wanda", "sparsegpt")
PRUNE_METHODS = ("magnitude", "wanda", "sparsegpt", "movement", "random")
PRUNE_SCOPES = ("local", "global", "owl")
SHRINK_METHODS = ("magnitude", "wanda", "random")
SHRINK_SCOPES = ("local", "global")


def parse_pattern(text: object) -> tuple[str, int, int]:
    """``("N:M", N, M)`` or ``("RxC", R, C)`` for a pattern's name; ``"unstructured"`` is blocks of 1x1.

    Raises:
        TypeError: not a string.
        ValueError: no such pattern; N must lie below M.
    """
    if not isinstance(text, str):
        raise TypeError(f"Prune: pattern must be a string such as '2:4' or '4x4', got {_kind(text)}")
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


@dataclass(frozen=True)
class PerLayer:
    """Different schemes for different layers: ``{name or "re:pattern" or "_default": scheme or None}``.

    For each layer an exact name wins, then the first ``re:`` pattern that matches the whole name, then ``_default``.
    ``None`` leaves a layer alone, and so does having no rule for it.

    Raises:
        TypeError: a key is no string, or a value neither a scheme nor None.
        ValueError: no rules, an empty name, or a pattern that is no regular expression.
    """

    rules: Mapping[str, Scheme | None]

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Mapping):
            raise TypeError(f"PerLayer: rules must be a mapping of names to schemes, got {_kind(self.rules)}")
        if not self.rules:
            raise ValueError('PerLayer: no rules given; PerLayer({"_default": Int8()}) converts every layer')
        for name, scheme in self.rules.items():
            _check_rule(name, scheme)
        object.__setattr__(self, "rules", dict(self.rules))

    def __hash__(self) -> int:
        return hash(tuple(self.rules.items()))

    def to_dict(self) -> dict[str, Any]:
        """These rules as JSON-ready data, in order."""
        rules = {name: scheme and scheme.to_dict() for name, scheme in self.rules.items()}
        return {"format": _PER_LAYER, "rules": rules}


Config: TypeAlias = Scheme | PerLayer

_PER_LAYER = "per_layer"
_SCHEMES: dict[str, type[Scheme]] = {scheme.format: scheme for scheme in (Int8, Float32, Prune, Shrink)}


def config_from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of ``to_dict`` of any scheme or PerLayer.

    Raises:
        TypeError: not a mapping.
        ValueError: an unknown format, or options that this format does not have.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"config_from_dict: expected a mapping with a 'format', got {_kind(data)}")
    options = dict(data)
    name = options.pop("format", None)
    if name == _PER_LAYER:
        rules = options.pop("rules", None)
        if options or not isinstance(rules, Mapping):
            raise ValueError(f"config_from_dict: format 'per_layer' takes 'rules', a mapping; got {sorted(data)}")
        return PerLayer({key: None if value is None else scheme_from_dict(value) for key, value in rules.items()})
    return scheme_from_dict(data)


def scheme_from_dict(data: Mapping[str, Any]) -> Scheme:
    """The inverse of ``Scheme.to_dict``; raises as ``config_from_dict`` does."""
    if not isinstance(data, Mapping):
        raise TypeError(f"scheme_from_dict: expected a mapping with a 'format', got {_kind(data)}")
    options = dict(data)
    name = options.pop("format", None)
    scheme = _SCHEMES.get(name) if isinstance(name, str) else None
    if scheme is None:
        raise ValueError(f"scheme_from_dict: unknown format {name!r}; this version knows {', '.join(sorted(_SCHEMES))}")
    known = {field.name for field in dataclasses.fields(scheme)}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"scheme_from_dict: format {name!r} has no option {', '.join(map(repr, unknown))}")
    return scheme(
        **{key: scheme_from_dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    )


def check_config(config: object, taker: str = "convert_") -> Config:
    """``config`` itself when it is a scheme or PerLayer that ``taker`` takes; TypeError with the way out when not."""
    if isinstance(config, Scheme | PerLayer):
        for scheme in config.rules.values() if isinstance(config, PerLayer) else (config,):
            if scheme is not None and scheme.carried_out_by != taker:
                raise TypeError(f"config: {type(scheme).__name__} is for {scheme.carried_out_by}, not for {taker}")
        return config
    if isinstance(config, type) and issubclass(config, Scheme | PerLayer):
        raise TypeError(f"config: expected a scheme, got the class {config.__name__}; write {config.__name__}(...)")
    if isinstance(config, Mapping):
        raise TypeError("config: expected a scheme or PerLayer, got a mapping; wrap it: PerLayer({...})")
    raise TypeError(f"config: expected a scheme such as Int8() or PerLayer({{...}}), got {_kind(config)}")


def _check_rule(name: object, scheme: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"PerLayer: a rule's key must be a string, got {_kind(name)}")
    if not name or name == "re:":
        raise ValueError(f"PerLayer: {name!r} names no layer; write a layer's name, 're:<pattern>' or '_default'")
    if name.startswith("re:"):
        try:
            re.compile(name.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"PerLayer: {name!r} is no regular expression: {error}") from None
    if scheme is not None and not isinstance(scheme, Scheme):
        hint = f"; write {scheme.__name__}()" if isinstance(scheme, type) and issubclass(scheme, Scheme) else ""
        raise TypeError(f"PerLayer: the rule for {name!r} must be a scheme, as Int8(), or None, got {scheme!r}{hint}")


def _settled_rows(given: object, scheme: str) -> tuple[int, ...]:
    """Numbers of rows, rising, from one or several."""
    rows = (given,) if isinstance(given, int) else given
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise TypeError(f"{scheme}: rows must be numbers of rows, as (1, 128), or one of them; got {given!r}")
    for count in rows:
        _check_count("rows", count, 1, scheme)
    return tuple(sorted(set(rows)))


def _settled_sparsity(given: object, kept: int, of: int, pattern: str) -> object:
    """The sparsity that N:M means, unless another kind of thing was given, which is refused later."""
    settled = 1 - kept / of
    if isinstance(given, int | float) and abs(given - settled) > 1e-6:
        raise ValueError(f"Prune: sparsity {given} does not go with pattern {pattern!r}, which means {settled:g}")
    return settled if given is None or isinstance(given, int | float) else given


def _check_choice(name: str, value: object, known: tuple[str, ...], scheme: str = "Prune") -> None:
    if value not in known:
        raise ValueError(f"{scheme}: unknown {name} {value!r}; this version knows {', '.join(known)}")


def _check_joint(value: object, method: str) -> None:
    if value is None:
        return
    if not isinstance(value, Int8):
        raise TypeError(f"Prune: joint must be Int8() or None, got {_kind(value)}")
    if method != "sparsegpt":
        raise ValueError(f"Prune: joint rounding is for method='sparsegpt'; with {method!r}, prune and then convert")


def _check_target(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"Prune: target must be a string such as {THIS_CPU!r} or 'avx2', got {_kind(value)}")
    try:
        resolve(value)
    except ValueError as error:
        raise ValueError(f"Prune: {error}") from None


def _check_number(name: str, value: object, most: float, scheme: str = "Prune") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{scheme}: {name} must be a number, got {_kind(value)}")
    if not 0 <= value <= most or math.isinf(value):
        raise ValueError(f"{scheme}: {name} must be {'0 or more' if math.isinf(most) else '0 to 1'}, got {value}")


def _check_count(name: str, value: object, least: int, scheme: str = "Prune") -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{scheme}: {name} must be an int, got {_kind(value)}")
    if value < least:
        raise ValueError(f"{scheme}: {name} must be {least} or more, got {value}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__

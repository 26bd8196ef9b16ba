"""Which rule speaks for which layer: exact name > ``re:`` pattern > ``_default``.

Every per-layer configuration goes through here, whatever its values mean.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

DEFAULT = "_default"
PATTERN = "re:"


@dataclass(frozen=True)
class Match(Generic[T]):
    """The rule that decided for a layer, and its value."""

    rule: str
    value: T

    @property
    def rank(self) -> int:
        """How directly the layer was meant: 2 by its exact name, 1 by a pattern, 0 by default."""
        return 0 if self.rule == DEFAULT else 1 if self.rule.startswith(PATTERN) else 2


def match(rules: Mapping[str, T], names: Sequence[str]) -> dict[str, Match[T]]:
    """The deciding rule for each of ``names``; a name without one is absent.

    Patterns are tried in their order in ``rules`` and must match the whole name.

    Raises:
        ValueError: a rule other than ``_default`` that speaks for no name at all; the message lists names close to it.
    """
    patterns = {rule: re.compile(rule.removeprefix(PATTERN)) for rule in rules if rule.startswith(PATTERN)}
    for rule in rules:
        if rule in patterns:
            if not any(map(patterns[rule].fullmatch, names)):
                raise ValueError(_unmatched_pattern(rule, patterns[rule], names))
        elif rule != DEFAULT and rule not in names:
            raise ValueError(_unknown_name(rule, names))

    def decide(name: str) -> str | None:
        if name in rules:
            return name
        first = next((rule for rule, pattern in patterns.items() if pattern.fullmatch(name)), None)
        return first if first is not None else DEFAULT if DEFAULT in rules else None

    decided = {name: decide(name) for name in names}
    return {name: Match(rule, rules[rule]) for name, rule in decided.items() if rule is not None}


def _unknown_name(rule: str, names: Sequence[str]) -> str:
    inside = sum(name.startswith(rule + ".") for name in names)
    if inside:
        pattern = PATTERN + re.escape(rule) + r"\..*"
        return f"{rule!r} is not a layer but holds {inside} of them; {pattern!r} names those"
    return f"no layer is called {rule!r}; {_suggest(rule, names)}"


def _unmatched_pattern(rule: str, pattern: re.Pattern[str], names: Sequence[str]) -> str:
    partly = [name for name in names if pattern.search(name)]
    if partly:
        wider = f"{PATTERN}.*({pattern.pattern}).*"
        return (
            f"{rule!r} matches no layer's whole name, only part of {len(partly)} ({partly[0]!r}); "
            f"did you mean {wider!r}?"
        )
    literal = re.sub(r"[^\w.]|\.(?=[*+?])", "", pattern.pattern)
    return f"{rule!r} matches no layer; {_suggest(literal, names)}"


def _suggest(wanted: str, names: Sequence[str]) -> str:
    if not names:
        return "this model has no layers that a rule could name"
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if close:
        return f"close to it: {', '.join(map(repr, close))}"
    shown = ", ".join(map(repr, names[:3]))
    return f"nothing is close to it; the model's {len(names)} layers begin with {shown}"

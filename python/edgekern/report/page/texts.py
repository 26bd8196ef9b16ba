"""How the report writes numbers, names and changes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ...summary import size_text

TIMES, MINUS, ARROW, ELLIPSIS = (
    "\N{MULTIPLICATION SIGN}",
    "\N{MINUS SIGN}",
    "\N{RIGHTWARDS ARROW}",
    "\N{HORIZONTAL ELLIPSIS}",
)
GOOD, BAD, PLAIN = "good", "bad", "plain"  # what a change is


@dataclass(frozen=True)
class Change:
    """How one number became another."""

    text: str
    tone: str
    """``GOOD``, ``BAD`` or ``PLAIN``."""


def digits(value: float, count: int = 3) -> str:
    """A number with so many digits that count, and no exponent unless it is tiny."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return f"{value:.{count - 1}e}"
    return f"{value:,.{max(0, count - 1 - magnitude)}f}"


def milliseconds(value: float) -> str:
    """A latency."""
    return f"{digits(value)} ms"


def joules(value: float) -> str:
    """An energy."""
    return f"{digits(value)} J"


def quality(value: float) -> str:
    """A value of any metric."""
    return digits(value, 4)


def size(value: float) -> str:
    """A number of bytes."""
    return size_text(value)


def duration(seconds: float) -> str:
    """How long something took, as people say it."""
    if seconds < 100:
        return f"{digits(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def threads(count: int) -> str:
    """A number of threads."""
    return f"{count} thread{'' if count == 1 else 's'}"


def fewer(before: float, after: float, better: str, worse: str) -> Change:
    """By what factor a number shrank, which is ``better``, or grew."""
    if before <= 0 or after <= 0:
        return Change("", PLAIN)
    factor = f"{before / after:.2f}" if after <= before else f"{after / before:.2f}"
    if factor == "1.00":
        return Change("the same", PLAIN)
    return Change(f"{factor}{TIMES} {better}", GOOD) if after < before else Change(f"{factor}{TIMES} {worse}", BAD)


def moved(before: float, after: float, higher_is_better: bool) -> Change:
    """By how much a metric rose or fell."""
    step = after - before
    if step == 0:
        return Change("the same", PLAIN)
    sign = "+" if step > 0 else MINUS
    return Change(f"{sign}{digits(abs(step))}", GOOD if (step > 0) == higher_is_better else BAD)


def clean(text: str) -> str:
    """Text that can be shown and stored anywhere: control characters, halves of pairs and the like are replaced."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def elided(name: str, most: int) -> str:
    """A name short enough for a chart, on one line; both ends stay, since that is where names differ."""
    name = clean(" ".join(name.split()))
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}{ELLIPSIS}{name[len(name) - (most - 1 - head) :]}"


def model_name(named: str) -> str:
    """What a model is called: of a path the last part, since the others say more of a machine than of a model.

    A last part ``model``, as compress writes and packages have, goes to the folder around it; in the cache of a hub,
    whose last part is a commit's hash, it is what the hub calls the model.
    """
    parts = [part for part in re.split(r"[/\\]", named) if part]
    for part in parts:
        if part.startswith("models--"):
            return part.rpartition("--")[2] or part
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1] if parts else named


def slug(name: str) -> str:
    """A name as part of a file's, on any system."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unnamed"

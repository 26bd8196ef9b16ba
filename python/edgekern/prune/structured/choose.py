"""Which units go: a rule for each group, a score for each unit, and a budget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.observe import Norms, gather
from edgekern.config import Config, PerLayer, Shrink
from edgekern.match import DEFAULT, Match, match
from edgekern.nn.layers import find_layers
from edgekern.prune.allocate import global_masks
from edgekern.prune.patterns import lowest, nearest
from edgekern.prune.structured.cut import Cut
from edgekern.prune.structured.groups import Group, Owners
from edgekern.prune.structured.obstacles import obstacle
from edgekern.prune.structured.score import contributions, magnitudes, random_scores, readers
from edgekern.prune.task import PruneError

UNREACHED = "example_inputs do not reach it, or its weight is no plain parameter"


@dataclass
class Job:
    """A group, and what shall become of it."""

    group: Group
    scheme: Shrink | None
    reason: str
    """Why it is left alone; empty when it is not."""
    scores: Tensor | None = None
    kept: Tensor | None = None
    """Which units stay, bool."""

    @property
    def step(self) -> int:
        """Units that make a multiple of ``round_to`` channels."""
        assert self.scheme is not None
        return self.scheme.round_to // math.gcd(self.scheme.round_to, self.group.width)

    def keep(self, count: int) -> None:
        """Settles which units stay: the best ones, in the nearest number that ``round_to`` allows."""
        assert self.scores is not None
        rounded = self.step * max(1, nearest(count / self.step))
        if count == self.group.size:
            self.reason = "nothing of it was to go"
        elif rounded >= self.group.size:
            self.reason = f"{count} of its {self.group.size} {self.group.kind} round to no less, by {self.step}"
        else:
            self.kept = ~lowest(self.scores[None], self.group.size - rounded)[0]


def plan_jobs(model: nn.Module, config: Config, groups: list[Group], owners: Owners) -> list[Job]:
    """One job for each group; those that are to be left alone have a reason.

    Raises:
        PruneError: a rule that cannot be followed.
    """
    grouped = dict.fromkeys(name for group in groups for name in group.layers)
    names = list(grouped | dict.fromkeys(name for layer in find_layers(model) for name in layer.names))
    if isinstance(config, PerLayer):
        try:
            rules = match(config.rules, names)
        except ValueError as error:
            raise PruneError(f"config: {error}") from None
    else:
        rules = {name: Match(DEFAULT, config) for name in names}
    for name, rule in rules.items():
        if rule.rank == 2 and rule.value is not None and name not in grouped:
            raise PruneError(f"config: {name!r} is named but cannot be shrunk: {UNREACHED}")
    return [_job(group, rules, owners) for group in groups]


def _job(group: Group, rules: Mapping[str, Match[Any]], owners: Owners) -> Job:
    found = {name: rules[name] for name in group.layers if name in rules}
    rank = max((rule.rank for rule in found.values()), default=0)
    direct = {name: rule for name, rule in found.items() if rule.rank == rank}
    if len({rule.value for rule in direct.values()}) > 1:
        said = ", ".join(f"{rule.value!r} for {name!r}" for name, rule in direct.items())
        raise PruneError(f"config: these layers can only lose the same {group.kind}, but the rules say {said}")
    rule = next(iter(direct.values()), None)
    if rule is None:
        return Job(group, None, "no rule speaks for it, and there is no '_default'")
    if rule.value is None:
        return Job(group, None, f"the rule {rule.rule!r} is None")
    reason = obstacle(group, owners)
    if not reason and group.mixing and not rule.value.through_norms:
        reason = f"{group.mixing} is computed over all of its channels; Shrink(..., through_norms=True) allows for it"
    if reason and rank == 2:
        raise PruneError(f"config: {rule.rule!r} is named but cannot be shrunk: {reason}")
    return Job(group, rule.value, reason)


@data_errors_as(PruneError)
def choose_units(model: nn.Module, jobs: list[Job], data: Iterable[Any] | None, owners: Owners) -> None:
    """Scores units and settles which stay.

    Raises:
        PruneError: data missing or empty, or NaN or infinity in weights or inputs.
    """
    _score(model, jobs, data, owners)
    shared: dict[Shrink, list[Job]] = defaultdict(list)
    for job in open_jobs(jobs):
        assert job.scheme is not None
        assert job.scores is not None
        if not job.scores.isfinite().all():
            raise PruneError(
                f"the weights of {', '.join(map(repr, job.group.layers))}, or of the layers that read their outputs, "
                "hold NaN or infinity; repair them (torch.nan_to_num_), or leave them alone with the rule None"
            )
        if job.scheme.scope == "global":
            shared[job.scheme].append(job)
        else:
            job.keep(job.group.size - nearest(job.scheme.share * job.group.size))
    for scheme, together in shared.items():
        masks = global_masks([job.scores[None] for job in together if job.scores is not None], scheme)
        for job, mask in zip(together, masks, strict=True):
            job.keep(int(mask.sum()))


def _score(model: nn.Module, jobs: list[Job], data: Iterable[Any] | None, owners: Owners) -> None:
    watchers: dict[nn.Module, Norms] = {}
    for job in open_jobs(jobs, "wanda"):
        modules = readers(job.group, owners)
        if not modules or not all(isinstance(module, nn.Linear | nn.Conv2d) for module in modules):
            job.reason = (
                "wanda judges units by the linear and 2-d convolution layers that read them, and this has others"
            )
        else:
            watchers.update({module: Norms(module) for module in modules})
    if watchers:
        if data is None:
            raise PruneError("data: method='wanda' needs calibration data; pass an iterable of batches")
        gather(model, watchers, data)
    for job in open_jobs(jobs):
        assert job.scheme is not None
        if job.scheme.method == "magnitude":
            job.scores = magnitudes(job.group)
        elif job.scheme.method == "random":
            job.scores = random_scores(job.group, job.scheme.seed)
        elif all(watchers[module].seen(job.group.name) for module in readers(job.group, owners)):
            job.scores = contributions(job.group, owners, watchers)
        else:
            job.reason = "the calibration data never reached a layer that reads it"


def open_jobs(jobs: list[Job], method: str = "") -> list[Job]:
    """Those that are not left alone."""
    return [job for job in jobs if not job.reason and job.scheme and method in ("", job.scheme.method)]


def cuts_of(jobs: list[Job]) -> list[Cut]:
    """What the jobs come to that are not left alone."""
    return [Cut(job.group, job.kept) for job in open_jobs(jobs) if job.kept is not None]

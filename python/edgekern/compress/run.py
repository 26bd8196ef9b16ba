"""``compress``: a recipe's stages one after the other, each from what the one before has written."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgekern.checkpoint import load, save
from edgekern.checkpoint.atomic import folder_written_whole, written_whole
from edgekern.compress import inputs as stage_inputs
from edgekern.compress.comparison import Comparison
from edgekern.compress.data import CompressData, Digests, digest
from edgekern.compress.errors import CompressError
from edgekern.compress.layout import (
    MODEL,
    MODEL_FILES,
    RECIPE,
    check_outputs,
    clear,
    hashes,
    make_folder,
    stage_folder,
    tidy,
)
from edgekern.compress.lock import locked
from edgekern.compress.recipes import recipe_of
from edgekern.compress.record import FILE, RunRecord, StageRecord
from edgekern.compress.record_file import read_record, write_record
from edgekern.compress.steps import (
    CHECKPOINT,
    CONVERSION,
    METRICS,
    Outcome,
    Task,
    carry_out,
    joined,
    read_conversion,
    write_conversion,
)
from edgekern.compress.structure import narrows, rebuilt, restructured, restructures
from edgekern.compress.subject import InMemory, Subject
from edgekern.config import Config, ConvertStage, Recipe, Stage, write_recipe
from edgekern.config.checks import kind_of
from edgekern.machine import describe_machine

Say = Callable[[str], None]


@dataclass(frozen=True)
class Compressed:
    """A run that has come to its end.

    Attributes:
        model: in eval mode.
        folder: of the run.
        record: what was done, and what was measured.
    """

    model: nn.Module
    folder: Path
    record: RunRecord

    @property
    def comparison(self) -> Comparison:
        """The first and the last evaluation side by side; prints as a table."""
        return Comparison.of(self.record)

    def __str__(self) -> str:
        return str(self.comparison)


def compress(
    model: nn.Module | Callable[[], nn.Module],
    recipe: Recipe | str | os.PathLike[str],
    output: str | os.PathLike[str],
    data: CompressData | None = None,
    *,
    restart: bool = False,
    progress: bool = True,
) -> Compressed:
    """Carries a recipe out, stage by stage, and goes on where an earlier call was killed.

    ``model`` stays as it is. Each stage begins with what the one before has written into ``output``, so a run that was
    killed, at any moment, ends with the same weights as one that was not, on the same machine with the same number of
    threads; within a stage that trains, it goes on from the last checkpoint. What went into each stage is noted: when
    the same call is made again with another model, option or data, it says what is different and does nothing.

    Args:
        model: a module, or a function that builds one with the same weights each time.
        recipe: a ``Recipe``; the name of one that comes along, as ``"int8"``; or a TOML file.
        output: folder of the run; see ``compress/layout.py``. ``edgekern.load(fresh, output + "/model")`` reads the
            finished model; after a stage that has left blocks or channels out, into a ``student_from`` without them.
        data: what stages calibrate, train and evaluate with.
        restart: removes what a run has written into ``output``, and begins anew.
        progress: shows progress bars, and says on stderr which stage begins.

    Returns:
        The model, and what was measured.

    Raises:
        TypeError: an argument of another type.
        CompressError: data that a stage needs are missing; ``output`` holds something else, or a run with another
            model, recipe or data, or files that have changed since; another process compresses into it.
        ValueError: no such recipe; and what the functions behind the stages raise. The stages that ended stay, and the
            same call goes on after them.
        OSError: a file cannot be written.
    """
    return compress_subject(InMemory(model), recipe, output, data, restart=restart, progress=progress)


def compress_subject(
    subject: Subject,
    recipe: Recipe | str | os.PathLike[str],
    output: str | os.PathLike[str],
    data: CompressData | None = None,
    *,
    restart: bool = False,
    progress: bool = True,
    say: Say | None = None,
) -> Compressed:
    """:func:`compress` of what need not be in memory; ``say`` is told each line instead of stderr."""
    settled = recipe_of(recipe)
    given = CompressData() if data is None else data
    if not isinstance(given, CompressData):
        raise TypeError(f"data: expected CompressData(...), got {kind_of(data)}")
    given.check(settled)
    root = Path(output)
    make_folder(root)
    with locked(root):
        clear(root, restart)
        run = _Run(subject, settled, root, given, progress, say or (_to_stderr if progress else _to_nobody))
        return run.go()


class _Run:
    """A run, from its first stage, or the first that has not ended, to its last."""

    def __init__(
        self, subject: Subject, recipe: Recipe, root: Path, data: CompressData, progress: bool, say: Say
    ) -> None:
        self.subject, self.recipe, self.root, self.data = subject, recipe, root, data
        self.progress, self.say = progress, say
        self.digests = Digests(data)
        self.original = subject.digest()
        self.record = self._begun()

    # ------------------------------------------------------------------------------------------ the run

    def go(self) -> Compressed:
        """Carries out what is left of it."""
        if self.record.complete and (self.root / MODEL).is_dir():
            self.say(f"finished: {self.root / MODEL} holds the model; --restart begins anew")
            return Compressed(self._model(), self.root, self.record)
        self._try_students()
        for number in range(len(self.record.stages), len(self.recipe.stages)):
            self._stage(number)
        model = self._model()
        with folder_written_whole(self.root / MODEL, replace=True) as folder:
            self.subject.write(model, self._converted_by(), folder)
        del model  # writing may have prepared it for that, and two of them need not fit in memory
        self._keep(replace(self.record, complete=True))
        self.say(f"written to {self.root / MODEL}")
        return Compressed(self._model(), self.root, self.record)

    def _try_students(self) -> None:
        """Errors of narrower students that cannot be made, or not be written, before hours of other work."""
        left = self.recipe.stages[len(self.record.stages) :]
        if not any(map(narrows, left)):
            return
        model = self._model()
        for stage in left:
            model = restructured(model, stage, self.data)
            if narrows(stage):
                self.subject.check(model, stage)

    def _begun(self) -> RunRecord:
        """The record of the run so far, which is checked, or a new one."""
        if not (self.root / FILE).is_file():
            record = RunRecord(self.subject.name, self.recipe.name, describe_machine())
            write_record(self.root, record)
        else:
            record = read_record(self.root)
            self._check(record)
        with written_whole(self.root / RECIPE) as part:
            write_recipe(self.recipe, part)
        if len(record.stages) < len(self.recipe.stages):
            record = replace(record, recipe=self.recipe.name, complete=False)
        return record

    def _keep(self, record: RunRecord) -> None:
        write_record(self.root, record)
        self.record = record

    def _check(self, record: RunRecord) -> None:
        """CompressError unless the stages that have ended are the first of the recipe's, from the same inputs.

        A kill may have left the checkpoint of a training that had ended: it is removed.
        """
        stages = self.recipe.stages
        for number, ended in enumerate(record.stages):
            if number >= len(stages) or (stages[number].name, stages[number].kind) != (ended.name, ended.kind):
                now = f"{stages[number].name!r} ({stages[number].kind})" if number < len(stages) else "none"
                raise CompressError(
                    f"recipe: in {self.root} stage {number + 1} was {ended.name!r} ({ended.kind}), is {now}; "
                    f"take the recipe that it was begun with, or {stage_inputs.WAY_OUT}"
                )
            check_outputs(self.root, ended)
            (stage_folder(self.root, number + 1, ended.name) / CHECKPOINT).unlink(missing_ok=True)
            found = stage_inputs.inputs_of(
                stages[number], self._before(record, number), self.digests.of(stages[number])
            )
            if stage_inputs.hash_of(found) != ended.inputs:
                path = stage_folder(self.root, number + 1, ended.name) / stage_inputs.FILE
                stage_inputs.check_same(path, found, ended.name, "has ended")
                raise CompressError(f"stage {ended.name!r}: {path} is not that of the run; {stage_inputs.WAY_OUT}")

    # ------------------------------------------------------------------------------------------ a stage

    def _stage(self, number: int) -> None:
        stage = self.recipe.stages[number]
        folder = stage_folder(self.root, number + 1, stage.name)
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        what = stage_inputs.inputs_of(stage, self._before(self.record, number), self.digests.of(stage))
        stage_inputs.begin(folder, what, stage.name)
        self.say(f"stage {number + 1} of {len(self.recipe.stages)}: {stage.name}")
        start = time.perf_counter()
        task = Task(
            stage=stage,
            folder=folder,
            model=self._model(),
            subject=self.subject,
            data=self.data,
            prepared=self._prepared(),
            same_layers=not any(map(restructures, self._ended())),
            progress=self.progress,
        )
        outcome = carry_out(task)
        self._write(task, outcome)
        ended = StageRecord(
            name=stage.name,
            kind=stage.kind,
            seconds=round(time.perf_counter() - start, 3),
            inputs=stage_inputs.hash_of(what),
            outputs=hashes(self.root, (folder / name for name in (*MODEL_FILES, CONVERSION, METRICS))),
            metrics=(folder / METRICS).relative_to(self.root).as_posix() if stage.trains else None,
            measured=outcome.measured,
            notes=outcome.notes,
        )
        self._keep(replace(self.record, stages=(*self.record.stages, ended)))
        (folder / CHECKPOINT).unlink(missing_ok=True)  # not before the record says that it has no further use

    def _write(self, task: Task, outcome: Outcome) -> None:
        if outcome.conversion is not None:
            write_conversion(task.folder, outcome.conversion)
        if task.stage.changes_model:
            save(task.model, task.folder, overwrite=True)

    # ------------------------------------------------------------------------------------------ what ended stages left

    def _ended(self) -> tuple[Stage, ...]:
        return self.recipe.stages[: len(self.record.stages)]

    def _folder(self, number: int) -> Path:
        return stage_folder(self.root, number + 1, self.recipe.stages[number].name)

    def _model(self) -> nn.Module:
        """The model as the last stage that changed it has written it, in eval mode."""
        model, last = self.subject.fresh(), -1
        for number, stage in enumerate(self._ended()):
            model = rebuilt(model, stage, self.data, self._folder(number))
            last = number if stage.changes_model else last
        return model if last < 0 else load(model, self._folder(last))

    def _before(self, record: RunRecord, number: int) -> str:
        """Digest of the model that a stage begins with."""
        for earlier in reversed(record.stages[:number]):
            files = {path: known for path, known in earlier.outputs.items() if path.endswith(MODEL_FILES)}
            if files:
                return digest(files)
        return self.original

    def _prepared(self) -> Config | None:
        """What weights were rounded to, or trained for, and are to be converted to."""
        found = None
        for number, stage in enumerate(self._ended()):
            if stage.prepares:
                found = joined(read_conversion(self._folder(number)), found)
            elif isinstance(stage, ConvertStage):
                found = None
        return found

    def _converted_by(self) -> Config | None:
        """What the last conversion went by."""
        found = None
        for number, stage in enumerate(self._ended()):
            if isinstance(stage, ConvertStage):
                found = read_conversion(self._folder(number))
        return found


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to_nobody(line: str) -> None:
    """For calls without progress."""

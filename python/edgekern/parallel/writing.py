"""Language models divided by layers: reading prompts in micro-batches, and writing, with caches where layers are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgekern.parallel.causal import CausalChain
from edgekern.parallel.chain import check_batch
from edgekern.parallel.group import Group
from edgekern.parallel.pipeline import MICRO_BATCHES, Divided
from edgekern.parallel.transfer import TOKENS, VALUES, Like, Outbox, receive, receive_all

LEAST_TOKENS = 16
"""Of a piece of a prompt: layers are less efficient with fewer rows at a time."""


@dataclass(frozen=True)
class _Job:
    """What all ranks do, as rank 0 says it."""

    ids: Tensor
    mask: Tensor | None
    tokens: int
    pieces: int
    eos: int | None
    pad: int


@dataclass
class _Rows:
    """Some rows of the batch: those of one micro-batch, which are computed together."""

    ids: Tensor
    mask: Tensor | None
    """1 where there is a token, 0 where there is padding; None where there is none at all."""
    cache: Any = None
    written: list[Tensor] = field(default_factory=list)
    ended: Tensor | None = None

    def options(self, start: int, end: int) -> dict[str, Tensor | None]:
        """Mask and positions of the columns from ``start`` on, before ``end``."""
        if self.mask is None:
            return {}
        mask = self.mask[:, :end]
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, start:]
        return {"attention_mask": mask, "position_ids": positions}

    def take(self, tokens: Tensor, job: _Job) -> Tensor:
        """Notes one more token of each row, ``pad`` for rows that have ended; what was noted."""
        if job.eos is not None:
            ended = torch.zeros_like(tokens, dtype=torch.bool) if self.ended is None else self.ended
            tokens = tokens.masked_fill(ended, job.pad)
            self.ended = ended | (tokens == job.eos)
        self.written.append(tokens)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(tokens)[:, None]], 1)
        return tokens

    @property
    def done(self) -> bool:
        """Whether no row goes on."""
        return self.ended is not None and bool(self.ended.all())


class CausalPipeline(Divided):
    """A causal language model that several ranks run; see :class:`Divided` for arguments.

    All ranks call the same methods in the same order. What is asked for is what rank 0 says; on the other ranks
    arguments are not looked at. A prompt is read in pieces, by rows where the batch has several and else by tokens: the
    second rank reads the first piece while the first rank reads the second. Each rank keeps the keys and values of its
    own layers. Rows of a batch write in turns: while one rank is at some of them, another is at others.
    """

    chain: CausalChain

    @torch.inference_mode()
    def generate(
        self,
        ids: Tensor | None = None,
        tokens: int = 20,
        *,
        attention_mask: Tensor | None = None,
        eos: int | None = None,
        pad: int = 0,
        micro_batches: int | None = None,
    ) -> Tensor:
        """Prompts, and what the model writes after them: at each step the likeliest token.

        Args:
            ids: int64 [B, T].
            tokens: to write, 1 or more; fewer when all rows end earlier.
            attention_mask: [B, T], 0 for padding, which stands at the left; None where there is none.
            eos: the token that ends a row; ``pad`` follows it.
            pad: what follows the end of a row.
            micro_batches: pieces to read the prompts in; 4 for each rank where nothing is said.

        Returns:
            int64 [B, T + written], the same on all ranks.

        Raises:
            TypeError, ValueError: arguments that are none, on rank 0; the others raise RankFailedError, once it ends.
            RankLostError, RankFailedError: another rank is gone.
        """
        job = self._announced(ids, tokens, attention_mask, eos, pad, micro_batches)
        if job.tokens < 1:
            raise ValueError(f"tokens: expected 1 or more, got {tokens}")
        batch = self._rows(job)
        links = _Links(self, len(batch))
        for rows, logits in self._read(job, batch, links, last_only=True):
            if logits is not None:
                links.tell(rows.take(logits[:, -1].argmax(-1), job))
        for step in range(1, job.tokens):
            if not self._write(job, batch, links, step):
                break
        else:
            self._learn(job, batch, links, job.tokens)
        links.flush()
        return self._joined(job, batch)

    @torch.inference_mode()
    def logits(
        self,
        ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
        micro_batches: int | None = None,
    ) -> Tensor | None:
        """Logits [B, T, words], or [B, 1, words] of the last token alone; on the last rank, None on the others.

        Arguments and errors are those of :meth:`generate`.
        """
        job = self._announced(ids, int(last_only), attention_mask, None, 0, micro_batches)
        batch = self._rows(job)
        links = _Links(self, len(batch))
        found: dict[int, list[Tensor]] = {id(rows): [] for rows in batch}
        for rows, logits in self._read(job, batch, links, last_only=bool(job.tokens)):
            if logits is not None:
                found[id(rows)].append(logits)
        links.flush()
        return torch.cat([torch.cat(found[id(rows)], 1) for rows in batch]) if self.is_last else None

    # ------------------------------------------------------------------------------------------ what is asked for

    def _announced(
        self,
        ids: Tensor | None,
        tokens: int,
        mask: Tensor | None,
        eos: int | None,
        pad: int,
        micro_batches: int | None,
    ) -> _Job:
        """What rank 0 asks for."""
        head = torch.zeros(7, dtype=torch.int64)
        if self.is_first:
            given = check_batch(ids, "ids", 2, torch.int64)
            if mask is not None and bool(mask.all()):
                mask = None  # attention is faster without
            if mask is not None and mask.shape != given.shape:
                raise ValueError(f"attention_mask: expected shape {list(given.shape)}, got {list(mask.shape)}")
            if mask is not None and bool((mask[:, :-1] > mask[:, 1:]).any()):
                raise ValueError("attention_mask: padding must be at the left, where no token is written after it")
            if micro_batches is not None and micro_batches < 1:
                raise ValueError(f"micro_batches: expected 1 or more, got {micro_batches}")
            pieces = micro_batches or MICRO_BATCHES * self.group.size
            head = torch.tensor([*given.shape, mask is not None, tokens, pieces, -1 if eos is None else eos, pad])
        self.group.broadcast(head)
        rows, columns, masked, most, pieces, end, padding = head.tolist()
        found = ids if self.is_first and ids is not None else torch.zeros(rows, columns, dtype=torch.int64)
        found = self.group.broadcast(found.contiguous())
        held = None
        if masked:
            held = mask.to(torch.int64) if self.is_first and mask is not None else torch.zeros_like(found)
            held = self.group.broadcast(held.contiguous())
        return _Job(found, held, most, pieces, None if end < 0 else end, padding)

    def _rows(self, job: _Job) -> list[_Rows]:
        """Micro-batches of rows."""
        count = min(job.pieces, len(job.ids))
        ids = torch.tensor_split(job.ids, count)
        masks = [None] * count if job.mask is None else torch.tensor_split(job.mask, count)
        return [_Rows(*pair) for pair in zip(ids, masks, strict=True)]

    @staticmethod
    def _ends(job: _Job, groups: int) -> list[int]:
        """Where pieces of the prompt end: a piece is a part of the tokens where there are too few rows."""
        columns = job.ids.shape[1]
        count = max(1, min(math.ceil(job.pieces / groups), columns // LEAST_TOKENS))
        return [columns * (i + 1) // count for i in range(count)]

    # ------------------------------------------------------------------------------------------ computing

    def _read(
        self, job: _Job, batch: list[_Rows], links: _Links, *, last_only: bool
    ) -> Iterator[tuple[_Rows, Tensor | None]]:
        """Reads the prompts: the rows of each piece, and its logits where this is the last rank and they are wanted."""
        ends = self._ends(job, len(batch))
        spans = list(zip([0, *ends], ends, strict=False))
        pieces = [(rows, start, end) for start, end in spans for rows in batch]
        hidden = links.hidden_states([(len(rows.ids), end - start) for rows, start, end in pieces])
        for rows, start, end in pieces:
            x = rows.ids[:, start:end] if self.is_first else next(hidden)
            wanted = 0 if not last_only else 1 if end == ends[-1] else None
            y, rows.cache = self.stage.run(x, rows.cache, logits=wanted, **rows.options(start, end))
            if not self.is_last:
                links.send(y)
            yield rows, y if self.is_last and wanted is not None else None

    def _write(self, job: _Job, batch: list[_Rows], links: _Links, step: int) -> bool:
        """One more token of every row that goes on; whether there was any."""
        any_left = False
        at = job.ids.shape[1] + step - 1
        for rows in batch:
            if not self._is_on(rows, job, links, step):
                continue
            any_left = True
            x = rows.written[-1][:, None] if self.is_first else links.hidden_state(len(rows.ids))
            y, rows.cache = self.stage.run(x, rows.cache, logits=1, **rows.options(at, at + 1))
            if self.is_last:
                links.tell(rows.take(y[:, -1].argmax(-1), job))
            else:
                links.send(y)
        return any_left

    def _is_on(self, rows: _Rows, job: _Job, links: _Links, step: int) -> bool:
        """Whether these rows take a step; learns the token before it, on ranks that do not compute tokens."""
        if rows.done:
            return False
        if not self.is_last and len(rows.written) < step:
            rows.take(links.token(len(rows.ids)), job)
        return not rows.done

    def _learn(self, job: _Job, batch: list[_Rows], links: _Links, step: int) -> None:
        """The last tokens."""
        for rows in batch:
            self._is_on(rows, job, links, step)

    def _joined(self, job: _Job, batch: list[_Rows]) -> Tensor:
        longest = max(len(rows.written) for rows in batch)
        out = torch.full((len(job.ids), job.ids.shape[1] + longest), job.pad, dtype=torch.int64)
        out[:, : job.ids.shape[1]] = job.ids
        at = 0
        for rows in batch:
            count, found = len(rows.ids), torch.stack(rows.written, 1)
            out[at : at + count, job.ids.shape[1] : job.ids.shape[1] + found.shape[1]] = found
            at += count
        return out


class _Links:
    """What one rank of a pipeline sends and receives in one call."""

    def __init__(self, pipeline: CausalPipeline, batch: int) -> None:
        group: Group = pipeline.group
        self._group, self._width, self._dtype = group, pipeline.chain.width, pipeline.chain.dtype
        last = group.size - 1
        self._next = Outbox(group, group.rank + 1, VALUES)
        # A rank takes the tokens of a step when it begins the next; to wait for that, both would.
        others = range(last) if pipeline.is_last else ()
        self._others = [Outbox(group, other, TOKENS, at_once=batch + 1) for other in others]
        self._last = last

    def hidden_states(self, sizes: list[tuple[int, int]]) -> Iterator[Tensor]:
        """From the rank before, for pieces of so many rows and columns; the next arrives while one is used."""
        likes: list[Like] = [((*size, self._width), self._dtype) for size in sizes]
        return receive_all(self._group, self._group.rank - 1, VALUES, likes)

    def hidden_state(self, rows: int) -> Tensor:
        """From the rank before, for one token."""
        return receive(self._group, self._group.rank - 1, VALUES, ((rows, 1, self._width), self._dtype))

    def send(self, hidden: Tensor) -> None:
        """To the next rank."""
        self._next.send(hidden)

    def tell(self, tokens: Tensor) -> None:
        """Tells all other ranks what the last one has computed."""
        for outbox in self._others:
            outbox.send(tokens)

    def token(self, rows: int) -> Tensor:
        """What the last rank has computed."""
        return receive(self._group, self._last, TOKENS, ((rows,), torch.int64))

    def flush(self) -> None:
        """Returns when all was taken."""
        for outbox in (self._next, *self._others):
            outbox.flush()

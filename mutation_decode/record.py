"""What is kept of every step of a generate call, on the device and small, until the answer is known.

Which token a step led to is known one step later, from the ids that generate goes on with; under beams, where
rows change places, only in the end: there each step keeps what its likeliest tokens would have had.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from .divergence import Divergence
from .readout import Readout
from .trace import Trace, risk_of

BEAM_CHOICES = 3
"""Tokens of a beam that may follow it, for each beam: generate looks at twice as many beams, or thrice."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a trace keeps of every token beside the divergences.

    Attributes:
        top: how many of the likeliest tokens of every readout, from 1 on.
        states: the states at every readout too: `L + 1` times the hidden size for every token, on the CPU.

    Raises:
        ValueError: if `top` is no number from 1 on.
    """

    top: int = 5
    states: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.top, bool) or not isinstance(self.top, int) or self.top < 1:
            raise ValueError(f"top is a number of tokens from 1 on, got {self.top!r}.")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is kept of one step, for every row of the forward: `[rows]` or `[rows, L]`, small tensors."""

    js: Tensor
    critical: Tensor
    pre_mutation: Tensor
    mutated: Tensor
    skipped: Tensor
    fired: Tensor
    acted: Tensor
    moved: Tensor


@dataclass(slots=True)
class Notes:
    """What a Record asks for, step by step.

    Attributes:
        beams: num_beams of the call; 1 without beams.
        columns: name in a Trace -> a tensor `[rows, ...]` for each step.
        last: the readout of the step at hand, and the logarithm of the sum that makes its logits
            probabilities, `[rows, L+1]`: until its token is known.
    """

    record: Record
    beams: int = 1
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    last: tuple[Readout, Tensor] | None = None

    def add(self, readout: Readout, scores: Tensor, ids: Tensor) -> None:
        """A step: what was read, the scores `[rows, vocab]` handed on, and the ids `[rows, any]` so far."""
        if self.last is not None:
            self.settle(ids[:, -1])
        sums, tops = [], []
        for index in readout.indices:  # one after the other, or fp32 logits of all would be there at once
            logits = readout.logits_at(index)
            sums.append(logits.logsumexp(dim=-1))
            tops.append(logits.topk(min(self.record.top, logits.shape[-1]), dim=-1))
        norm = torch.stack(sums, dim=1)
        self._keep("top_ids", torch.stack([top.indices for top in tops], dim=1))
        self._keep("top_probs", (torch.stack([top.values for top in tops], dim=1) - norm[:, :, None]).exp())
        after = scores.float().softmax(dim=-1)
        likeliest = after.topk(min(self.record.top, after.shape[-1]), dim=-1)
        self._keep("after_ids", likeliest.indices)
        self._keep("after_probs", likeliest.values)
        if readout.states is not None:
            self._keep("states", readout.states.cpu())
        if self.beams == 1:
            self.last = readout, norm
            return
        may_follow = scores.topk(min(BEAM_CHOICES * self.beams, scores.shape[-1]), dim=-1).indices
        self._keep("_ids", may_follow)
        self._keep("_probs", _probs(readout, norm, may_follow))

    def settle(self, tokens: Tensor) -> None:
        """Which tokens `[rows]` the last step led to."""
        assert self.last is not None
        readout, norm = self.last
        self._keep("prob", _probs(readout, norm, tokens[:, None].to(norm.device))[..., 0])
        self.last = None

    def finish(self, tokens: Tensor, row: Tensor) -> dict[str, Tensor]:
        """Name in a Trace -> values, for tokens `[rows, T]` and the rows `[rows, T]` of their steps."""
        if self.last is not None:  # without beams its rows are those returned, and perhaps twins behind them
            ids = torch.zeros(len(self.last[1]), dtype=torch.long)
            if tokens.shape[1] == len(self.columns["top_ids"]):
                ids[: len(tokens)] = tokens[:, -1].cpu()
            self.settle(ids)
        found = {name: gathered(steps, row) for name, steps in self.columns.items()}
        if self.beams > 1:
            same = found.pop("_ids") == tokens.cpu()[:, :, None]
            prob = torch.where(same[:, :, None], found.pop("_probs"), 0.0).sum(dim=-1)
            found["prob"] = prob.masked_fill(~same.any(dim=-1)[:, :, None], torch.nan)
        return found

    def _keep(self, name: str, values: Tensor) -> None:
        self.columns.setdefault(name, []).append(values)


@dataclass(slots=True)
class Recorder:
    """Collects steps during generate, on the device, and joins them to the tokens when it has returned.

    Attributes:
        watched: the blocks, first and first not, that a trace's risk looks at.
        notes: what is kept beside the steps; None for nothing.
        model: the fingerprint of the model.
    """

    divergence: Divergence = "js"
    watched: tuple[int, int] = (0, 0)
    notes: Notes | None = None
    model: Mapping[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    prompt: int | None = None

    def add(self, step: Step, prompt: int) -> None:
        """Keeps a step; `prompt` is the length of input_ids at that step, of which the first one counts."""
        self.prompt = prompt if self.prompt is None else self.prompt
        self.steps.append(step)

    def risk(self) -> Tensor:
        """`[rows]` of the last step; see `Trace.risk`."""
        return risk_of(self.steps[-1].js, self.watched, self.divergence)

    def finish(self, output: Any, end_tokens: Tensor, pad_token: int | None) -> Trace:
        """Joins the steps to the returned tokens.

        Args:
            output: what generate returned: sequences, or an object with `sequences` and, under beams,
                `beam_indices`.
            end_tokens: `[any]` the ids that end a row.
            pad_token: what finished rows are filled with, if it is known.
        """
        sequences = output if isinstance(output, Tensor) else output.sequences
        tokens = sequences[:, self.prompt :]
        came_from = getattr(output, "beam_indices", None)
        # A row that generate kept computing after its end, or steps that it undid, have no returned token.
        length = min(tokens.shape[1], len(self.steps))
        tokens = tokens[:, :length]
        if came_from is None:
            row = torch.arange(tokens.shape[0], device=tokens.device)[:, None].expand_as(tokens)
            generated = _until_end(tokens, end_tokens.to(tokens.device), pad_token)
        else:
            row, generated = came_from[:, :length].clamp_min(0).long(), came_from[:, :length] >= 0
        columns: dict[str, Any] = {
            each.name: gathered([getattr(step, each.name) for step in self.steps], row)
            for each in fields(Step)
        }
        if self.notes is not None:
            columns |= self.notes.finish(tokens, row)
        return Trace(
            tokens=tokens.cpu(),
            generated=generated.cpu(),
            divergence=self.divergence,
            watched=self.watched,
            model=self.model,
            **columns,
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """How the calls of one processor are recorded; see `Recorder`, of which each call has one."""

    record: Record | None
    divergence: Divergence
    watched: range
    model: Mapping[str, Any]

    def begin(self, beams: int) -> Recorder:
        """For a call with that num_beams."""
        notes = None if self.record is None else Notes(self.record, beams)
        return Recorder(self.divergence, (self.watched.start, self.watched.stop), notes, self.model)


def late(depth: int) -> range:
    """The last 14/32 of the blocks, less the last one: where the paper looks for mutations; one at least."""
    stop = max(1, depth - 1)
    return range(min(depth - round(14 / 32 * depth), stop - 1), stop)


def gathered(steps: list[Tensor], row: Tensor) -> Tensor:
    """Of a tensor `[rows, ...]` a step, the values at each returned token, on the CPU.

    Args:
        row: `[returned rows, T]` which row of its step a token is of.
    """
    told = torch.stack(steps)
    time = torch.arange(row.shape[1], device=told.device).expand(row.shape)
    return told[time, row.to(told.device)].cpu()


def _probs(readout: Readout, norm: Tensor, ids: Tensor) -> Tensor:
    """`[rows, L+1, M]` what every readout gives tokens `[rows, M]`."""
    picked = readout.logits.gather(2, ids[:, None, :].expand(-1, readout.logits.shape[1], -1))
    return (picked.float() - norm[:, :, None]).exp()


def _until_end(tokens: Tensor, end_tokens: Tensor, pad_token: int | None) -> Tensor:
    """True up to and including the first end token; also False on padding that follows a stop string."""
    ends = torch.isin(tokens, end_tokens)
    running = (ends.long().cumsum(dim=1) - ends.long()) == 0
    if pad_token is None or bool(torch.isin(torch.tensor(pad_token, device=tokens.device), end_tokens)):
        return running
    filler = (tokens == pad_token).long().flip(1).cumprod(dim=1).flip(1).bool()
    return running & ~filler

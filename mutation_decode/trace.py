"""What happened at every token of a generate call."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .divergence import Divergence


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The answers of one generate call, token by token, on the CPU. Blocks count 0..L-1, readouts 0..L.

    Row r is row r of what generate returned; entry t is its t-th generated token, and what was measured at
    the position that predicted it. Everything outside `generated` (after a row's end) is filler.

    Attributes:
        tokens: `[rows, tokens]` the generated ids.
        generated: `[rows, tokens]` bool, True up to and including the token that ended the row.
        js: `[rows, tokens, L]` nats, the change that each block made; in another unit if the detector went by
            another `divergence`, as it is what the detector saw.
        critical: `[rows, tokens]` readout.
        pre_mutation: `[rows, tokens]` readout; L where nothing fired.
        mutated: `[rows, tokens, L]` bool.
        skipped: `[rows, tokens, L]` bool, the blocks that were left out.
        fired: `[rows, tokens]` bool, whether the detector found mutated blocks.
        acted: `[rows, tokens]` bool, whether the strategy changed what the model says.
        divergence: which one js holds; js unless the detector names another.
    """

    tokens: Tensor
    generated: Tensor
    js: Tensor
    critical: Tensor
    pre_mutation: Tensor
    mutated: Tensor
    skipped: Tensor
    fired: Tensor
    acted: Tensor
    divergence: Divergence = "js"

    @property
    def percent_fired(self) -> float:
        """Percent of the generated tokens at which the detector found a mutation; NaN without tokens."""
        return _percent(self.fired, self.generated)

    @property
    def percent_acted(self) -> float:
        """Percent of the generated tokens at which the strategy acted; NaN without tokens."""
        return _percent(self.acted, self.generated)


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


@dataclass(slots=True)
class Recorder:
    """Collects steps during generate, on the device, and joins them to the tokens when it has returned."""

    divergence: Divergence = "js"
    steps: list[Step] = field(default_factory=list)
    prompt: int | None = None

    def add(self, step: Step, prompt: int) -> None:
        """Keeps a step; `prompt` is the length of input_ids at that step, of which the first one counts."""
        self.prompt = prompt if self.prompt is None else self.prompt
        self.steps.append(step)

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
        time = torch.arange(length, device=row.device).expand_as(row)
        columns = {
            name: torch.stack([getattr(step, name) for step in self.steps]).to(row.device)[time, row].cpu()
            for name in Step.__slots__
        }
        return Trace(tokens=tokens.cpu(), generated=generated.cpu(), divergence=self.divergence, **columns)


def _until_end(tokens: Tensor, end_tokens: Tensor, pad_token: int | None) -> Tensor:
    """True up to and including the first end token; also False on padding that follows a stop string."""
    ends = torch.isin(tokens, end_tokens)
    running = (ends.long().cumsum(dim=1) - ends.long()) == 0
    if pad_token is None or bool(torch.isin(torch.tensor(pad_token, device=tokens.device), end_tokens)):
        return running
    filler = (tokens == pad_token).long().flip(1).cumprod(dim=1).flip(1).bool()
    return running & ~filler


def _percent(which: Tensor, among: Tensor) -> float:
    return 100 * float((which & among).sum()) / total if (total := int(among.sum())) else float("nan")

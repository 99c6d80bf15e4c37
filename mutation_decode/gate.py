"""Which of the tokens that the detector found are acted on: a gate on what the model itself says there."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .detection import Mutations
from .divergence import js_divergence
from .readout import Readout

Toward = Literal["text", "image"]


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a row through in which the model's own next-token distribution meets all of the conditions given.

    What it looks at is the final readout, in fp32: the model's logits before any logits processor, so
    temperature and penalties do not move it. A row that is kept out counts as one in which nothing was found.

    With `toward`, every prompt is decoded beside its twin, the same prompt whose image is masked (twins.py):
    generate takes the rows as ever and returns theirs alone, but its forwards, processors and criteria see
    the twins too, as many rows again behind them. A twin takes its row's tokens and is never acted on, so
    that it says what the model as it is would say without the image. Only greedy decoding does that. `twins=`
    among the arguments of generate are inputs to use in their place; see `with_twins`. Of what generate can
    return, `past_key_values` are None if they do not come apart by rows, as those of a static cache.

    Attributes:
        max_prob: a probability in (0, 1]; the best token's has to be below it. None: any.
        min_entropy: nats, 0 or more (ln V is the largest over V tokens); the entropy has to be above it.
            None: any.
        changed: the best token has to be another one than at the pre-mutation readout.
        toward: where the mutations have to lead, from the pre-mutation readout to the final one: ``text``,
            nearer to what the model says without the image (the mark of most failures); ``image``, further
            away from that; in JSD. None: anywhere, without twins.

    Raises:
        ValueError: if a knob is out of its range.

    Example, only where the model is in doubt and has changed its mind:
        MutationLogitsProcessor(model, Contrast(), gate=Gate(max_prob=0.9, changed=True))

    Source: of `toward`, CALRD, arXiv 2606.17953: late changes toward the text-only answer mostly fail.
    """

    max_prob: float | None = None
    min_entropy: float | None = None
    changed: bool = False
    toward: Toward | None = None

    def __post_init__(self) -> None:
        if self.max_prob is not None and not (_is_number(self.max_prob) and 0 < self.max_prob <= 1):
            raise ValueError(f"max_prob is a probability above 0 and at most 1, got {self.max_prob!r}.")
        if self.min_entropy is not None and not (_is_number(self.min_entropy) and self.min_entropy >= 0):
            raise ValueError(f"min_entropy is an entropy in nats, 0 or more, got {self.min_entropy!r}.")
        if not isinstance(self.changed, bool):
            raise ValueError(f"changed is true or false, got {self.changed!r}.")
        if self.toward is not None and self.toward not in get_args(Toward):
            raise ValueError(f"toward is one of {', '.join(get_args(Toward))} or None, got {self.toward!r}.")

    def __call__(self, readout: Readout, mutations: Mutations) -> Tensor:
        """The rows that are let through, `[rows]` bool; each row is judged by itself.

        With `toward` the second half of the rows are the twins of the first: these are never let through.
        """
        open_ = torch.ones_like(mutations.fired)
        final = readout.log_probs(readout.depth)
        if self.max_prob is not None:
            open_ = open_ & (final.amax(dim=-1).exp() < self.max_prob)
        if self.min_entropy is not None:
            open_ = open_ & (torch.special.entr(final.exp()).sum(dim=-1) > self.min_entropy)
        if self.changed:
            before = readout.logits_at(mutations.pre_mutation)
            open_ = open_ & (before.argmax(dim=-1) != final.argmax(dim=-1))
        if self.toward is not None:
            row, twin = final.chunk(2)
            before = js_divergence(readout.logits_at(mutations.pre_mutation).chunk(2)[0], twin)
            after = js_divergence(row, twin)
            moved = after < before if self.toward == "text" else after > before
            open_ = open_ & torch.cat([moved, torch.zeros_like(moved)])
        return open_


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

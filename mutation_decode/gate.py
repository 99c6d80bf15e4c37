"""Which of the tokens that the detector found are acted on: a gate on what the model itself says there."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .detection import Mutations
from .readout import Readout


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a row through in which the model's own next-token distribution meets all of the conditions given.

    What it looks at is the final readout, in fp32: the model's logits before any logits processor, so
    temperature and penalties do not move it. A row that is kept out counts as one in which nothing was found.

    Attributes:
        max_prob: a probability in (0, 1]; the best token's has to be below it. None: any.
        min_entropy: nats, 0 or more (ln V is the largest over V tokens); the entropy has to be above it.
            None: any.
        changed: the best token has to be another one than at the pre-mutation readout.

    Raises:
        ValueError: if a knob is out of its range.

    Example, only where the model is in doubt and has changed its mind:
        MutationLogitsProcessor(model, Contrast(), gate=Gate(max_prob=0.9, changed=True))
    """

    max_prob: float | None = None
    min_entropy: float | None = None
    changed: bool = False

    def __post_init__(self) -> None:
        if self.max_prob is not None and not (_is_number(self.max_prob) and 0 < self.max_prob <= 1):
            raise ValueError(f"max_prob is a probability above 0 and at most 1, got {self.max_prob!r}.")
        if self.min_entropy is not None and not (_is_number(self.min_entropy) and self.min_entropy >= 0):
            raise ValueError(f"min_entropy is an entropy in nats, 0 or more, got {self.min_entropy!r}.")
        if not isinstance(self.changed, bool):
            raise ValueError(f"changed is true or false, got {self.changed!r}.")

    def __call__(self, readout: Readout, mutations: Mutations) -> Tensor:
        """The rows that are let through, `[rows]` bool; each row is judged by itself."""
        open_ = torch.ones_like(mutations.fired)
        final = readout.log_probs(readout.depth)
        if self.max_prob is not None:
            open_ = open_ & (final.amax(dim=-1).exp() < self.max_prob)
        if self.min_entropy is not None:
            open_ = open_ & (torch.special.entr(final.exp()).sum(dim=-1) > self.min_entropy)
        if self.changed:
            before = readout.logits_at(mutations.pre_mutation)
            open_ = open_ & (before.argmax(dim=-1) != final.argmax(dim=-1))
        return open_


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Confident Decoding: a near-final layer that is surer than all after it, found from the end backwards."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout


@dataclass(frozen=True, slots=True)
class Confident:
    """The distribution at the entropy valley nearest to the end: backwards while the entropy falls.

    Follows the code (``select_method: trough``, ``p: 1``), which may stay at the end; the paper's formula
    could not. Entropies are the model's own. What other processors did to the final scores is done to those
    of the layer that is taken.

    Guessed: the width of the window. Their README serves models of different depth with 10 layers; here they
    are 10 of 32, as a fraction.

    Attributes:
        window: how many readouts are looked at, the final one included: a number, or a fraction of the depth
            (rounded up, at least 2).
        shift: readouts added to the one found, within the window; their trough-m1 is -1, trough-p1 is 1.

    Source: Zhang et al. 2026, arXiv 2606.21906, and QwenLM/Confident-Decoding, trough_utils.py.
    """

    window: float | int = 10 / 32
    shift: int = 0
    always: ClassVar[bool] = True

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The window without its end. Raises: ValueError when it is not 2..depth readouts wide."""
        width = self.window
        if isinstance(width, float) and 0 < width <= 1:
            width = max(2, math.ceil(width * depth))
        if not isinstance(width, int) or not 2 <= width <= depth:
            raise ValueError(
                f"window={self.window!r} does not fit a model of {depth} blocks; choose 2..{depth} readouts, "
                f"or a fraction of the depth in (0, 1]"
            )
        return tuple(range(depth - width + 1, depth))

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        names = (*self.readouts(readout.depth), readout.depth)
        entropy = torch.stack([torch.special.entr(readout.log_probs(n).exp()).sum(dim=-1) for n in names])
        falls = (entropy[:-1] < entropy[1:]).flip(0)
        back = falls.cumprod(dim=0).sum(dim=0)
        chosen = (len(names) - 1 - back + self.shift).clamp(0, len(names) - 1)
        others = scores - readout.logits_at(readout.depth).clamp_min(-1e30)
        return among(True, readout.logits_at(chosen + names[0]) + others, scores)

"""What to do with a step once its mutations are known: the Strategy protocol, and Contrast."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .detection import Mutations
from .readout import Readout


class Strategy(Protocol):
    """Turns the scores of one step into better ones, with every layer it asked for at hand.

    A strategy holds its knobs and nothing else: the same arguments give the same scores. It may be any object
    with these three members; `Contrast` is one, and layer-wise methods such as DoLa, DeCo or SLED are others.

    Example, early exit at a fixed depth:
        @dataclass(frozen=True)
        class EarlyExit:
            layer: int
            always: bool = True

            def readouts(self, depth):
                return (self.layer,)

            def __call__(self, readout, mutations, scores):
                return readout.log_probs(self.layer)
    """

    @property
    def always(self) -> bool:
        """Whether the strategy acts on every row; if not, only on the rows in which the detector fired."""
        ...

    def readouts(self, depth: int) -> Iterable[int]:
        """The readouts (0..depth) it needs beside the detector's and the model's own, which are always there.

        Raises:
            ValueError: if its knobs do not fit a model of `depth` blocks.
        """
        ...

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """New scores for every row; rows on which the strategy does not act are put back by the caller.

        Args:
            readout: the logits of this step at the readouts that were read.
            mutations: what the detector found, row by row.
            scores: `[rows, vocab]` fp32, as generate hands them over: raw logits when greedy or sampling,
                log-probabilities under beams, -inf for forbidden tokens. Must not be changed in place.

        Returns:
            `[rows, vocab]`. -inf must stay -inf, and under beams rows must be log-probabilities.
        """
        ...


@dataclass(frozen=True, slots=True)
class Contrast:
    """Contrast between the distribution before the mutation and the final one, on the plausible tokens.

    The scores s become s + alpha (log p_before - log p_final), shifted so that the logsumexp of the row stays
    what it was: constants pass through, and beams get log-probabilities. Tokens that are plausible neither
    before nor at the end get -inf.

    Attributes:
        alpha: 0 leaves the scores untouched, 1 falls back to the distribution before the mutation, more
            pushes away from what the mutation added, less than 0 pushes away from the earlier layer.
        beta: in [0, 1]; a token is plausible if its probability is at least beta times the best one's.
        layer: the readout (0..L-1) to go back to; None for the pre-mutation one that the detector finds.
        always: act on every token, not only where the detector fires; needs a `layer`.

    Raises:
        ValueError: if a knob is out of its range.
    """

    alpha: float = 1.0
    beta: float = 0.1
    layer: int | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, got {self.alpha!r}.")
        if not isinstance(self.beta, int | float) or not 0 <= self.beta <= 1:
            raise ValueError(f"beta is a share of the best probability, between 0 and 1, got {self.beta!r}.")
        if self.layer is not None and (not isinstance(self.layer, int) or self.layer < 0):
            raise ValueError(f"layer is a readout from 0 on, or None for the detector's, got {self.layer!r}.")
        if self.always and self.layer is None:
            raise ValueError(
                "always=True acts also where the detector finds no earlier readout: say which one with "
                "layer=."
            )

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The fixed readout, if there is one.

        Raises:
            ValueError: if it is not below `depth`.
        """
        if self.layer is None:
            return ()
        if self.layer >= depth:
            raise ValueError(
                f"layer={self.layer} is no earlier readout of a model of {depth} blocks; choose one in "
                f"0..{depth - 1}."
            )
        return (self.layer,)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """See `Strategy`; a row none of whose allowed tokens is plausible comes back as it was."""
        if self.alpha == 0:
            return scores
        final = readout.log_probs(readout.depth)
        before = readout.log_probs(mutations.pre_mutation if self.layer is None else self.layer)
        keep = (self._plausible(final) | self._plausible(before)) & (scores > -math.inf)
        # Probability 0 in both makes no difference; a bare subtraction would make it NaN.
        change = before.clamp_min(-1e30) - final.clamp_min(-1e30)
        moved = torch.where(keep, scores + self.alpha * change, -math.inf)
        shift = scores.logsumexp(dim=-1, keepdim=True) - moved.logsumexp(dim=-1, keepdim=True)
        return torch.where(keep.any(dim=-1, keepdim=True), moved + shift, scores)

    def _plausible(self, log_probs: Tensor) -> Tensor:
        floor = math.log(self.beta) if self.beta > 0 else -math.inf
        return log_probs >= log_probs.amax(dim=-1, keepdim=True) + floor


DEFAULT_STRATEGY = Contrast()

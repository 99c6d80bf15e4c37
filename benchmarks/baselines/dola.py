"""DoLa: the final layer against the one that differs most from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout, js_divergence


@dataclass(frozen=True, slots=True)
class DoLa:
    """Contrast of the final layer with the candidate that differs most from it, on every token.

    ``log p_L - log p_l*`` with l* the candidate readout of the largest JSD to the final one; tokens less
    probable than ``plausibility`` times the best go to -inf. Unlike the published code, l* is chosen for each
    row (theirs averages over the batch), by the true JSD (theirs takes a mean over the vocabulary of a
    divergence with its arguments exchanged). It reads layers without the final norm: ``norm: false``.

    Attributes:
        layers: ``low`` (even readouts of the first half), ``high`` (of the second), or a list of readouts.
        first: where ``low`` begins: 0, or 2 for models whose head is tied to the embeddings.
        plausibility: share of the best token's final probability, in [0, 1].
        always: True; the method has no gate.

    Raises: ValueError when a knob is out of range.
    Source: Chuang et al., ICLR 2024, "DoLa", eq. 2-5; advised with a repetition penalty of 1.2.
    """

    layers: str | Sequence[int] = "low"
    first: int = 0
    plausibility: float = 0.1
    always: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) and self.layers not in ("low", "high"):
            raise ValueError(f"layers is low, high or a list of readouts; got {self.layers!r}")
        if not 0 <= self.plausibility <= 1:
            raise ValueError(
                f"plausibility is a share of the best probability, between 0 and 1; got {self.plausibility!r}"
            )
        if not self.always:
            raise ValueError("DoLa acts on every token; always=False is not DoLa")

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The candidates, ascending. Raises: ValueError when there are none, or one is not in 0..depth-1."""
        half = depth // 2
        if self.layers == "low":
            found: Sequence[int] = range(self.first, half, 2)
        elif self.layers == "high":
            found = range(half + half % 2, depth, 2)
        else:
            found = sorted({int(layer) for layer in self.layers})
        if not found or found[0] < 0 or found[-1] >= depth:
            raise ValueError(
                f"layers={self.layers!r} names no candidates in 0..{depth - 1} of a model of {depth} blocks"
            )
        return tuple(found)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        names = self.readouts(readout.depth)
        own = readout.logits_at(readout.depth)
        distance = torch.stack([js_divergence(readout.logits_at(name), own) for name in names])
        premature = readout.log_probs(torch.tensor(names, device=scores.device)[distance.argmax(dim=0)])
        final = scores.log_softmax(dim=-1)  # with what other processors did to it
        floor = math.log(self.plausibility) if self.plausibility > 0 else -math.inf
        # Probability 0 in both layers makes no difference; a bare subtraction would make it NaN.
        change = final.clamp_min(-1e30) - premature.clamp_min(-1e30)
        return among(final >= final.amax(dim=-1, keepdim=True) + floor, change, scores)

"""The divergence of the paper's released scripts, which is not the one of its equations.

They give ``F.kl_div`` its arguments the other way round, which makes KL(M||p) of KL(p||M), and take the mean
over the vocabulary in place of the sum; the states go to the head without the final norm (``norm=False``),
the last one aside. Thresholds for the one mean nothing for the other.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from mutation_decode import Gate, Mutations, Readout, js_divergence


def released_js(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``(mean_v M (log M - log p) + mean_v M (log M - log q)) / 2`` with M = (p + q) / 2.

    Args:
        log_p, log_q: log-probabilities ``[..., vocab]``.

    Returns: ``[...]``; 0 for equal distributions; no upper limit.
    """
    middle = (log_p.exp() + log_q.exp()) / 2
    log_middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    return (middle * (2 * log_middle - log_p - log_q)).mean(dim=-1) / 2


@dataclass(slots=True)
class Watching:
    """A strategy that notes the released divergence of every block, and changes no score.

    Attributes:
        steps: of every step ``[rows, L]``.
    """

    steps: list[Tensor] = field(default_factory=list)
    always: bool = True

    def readouts(self, depth: int) -> range:
        return range(depth)

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        told = [readout.log_probs(index) for index in range(readout.depth + 1)]
        self.steps.append(torch.stack([released_js(p, q) for p, q in pairwise(told)], dim=-1).cpu())
        return scores


@dataclass(frozen=True, slots=True)
class LateGate(Gate):
    """Opens where a late divergence of either kind is above a bound: the two as detectors, all else the same.

    Attributes:
        released: the one of the released scripts, or JSD; both of the readouts as they are read.
        above: nats for JSD; the released one is a mean over the vocabulary, in no unit.
        first: the first block looked at, as a share of the depth.
    """

    released: bool = False
    above: float = 0.0
    first: float = 0.75

    def __call__(self, readout: Readout, mutations: Mutations) -> Tensor:
        measure = released_js if self.released else js_divergence
        told = [readout.log_probs(j) for j in range(round(self.first * readout.depth), readout.depth + 1)]
        largest = torch.stack([measure(p, q) for p, q in pairwise(told)]).amax(dim=0)
        return Gate.__call__(self, readout, mutations) & (largest > self.above)

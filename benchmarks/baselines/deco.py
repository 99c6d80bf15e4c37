"""DeCo: the layer that is surest of a candidate adds its logits to the final ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.baselines.places import earlier_readout
from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout


@dataclass(frozen=True, slots=True)
class DeCo:
    """``z_L + alpha p_l*[v*] z_l*`` on the candidate tokens, -inf elsewhere.

    Candidates are the most probable tokens at the end, up to the first that brings their sum to ``top_p``;
    l* and v* are the layer and the candidate of the highest probability at any of the layers looked at, for
    each row (the published code decodes one row). There, other processors see the result; here, ``z_L`` is
    what those before this one made of it.

    Attributes:
        alpha: weight of the earlier logits, 0 or more.
        top_k: the most candidates.
        top_p: probability, in (0, 1].
        first, last: the readouts looked at, both included, or fractions of the depth: 20 to 28 of 32.

    Raises: ValueError when a knob is out of range.

    Source: Wang et al., ICLR 2025, arXiv 2410.11779, and zjunlp/DeCo, generation/utils.py.
    """

    alpha: float = 0.6
    top_k: int = 20
    top_p: float = 0.9
    first: float | int = 20 / 32
    last: float | int = 28 / 32
    always: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.top_k < 1 or not 0 < self.top_p <= 1:
            raise ValueError(f"alpha is 0 or more, top_k 1 or more, top_p in (0, 1]; got {self!r}")

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The layers looked at. Raises: ValueError when there are none, or one is not in 0..depth-1."""
        first, last = (earlier_readout(name, getattr(self, name), depth) for name in ("first", "last"))
        if first > last:
            raise ValueError(f"first={self.first!r} lies behind last={self.last!r} with {depth} blocks")
        return tuple(range(first, last + 1))

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        names = self.readouts(readout.depth)
        best, tokens = scores.softmax(dim=-1).topk(min(self.top_k, scores.shape[-1]))
        before = torch.nn.functional.pad(best.cumsum(dim=-1)[:, :-1], (1, 0))
        keep = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, tokens, before < self.top_p)
        keep &= scores > -torch.inf
        sure = torch.stack([readout.log_probs(name).exp().where(keep, 0).amax(dim=-1) for name in names])
        weight, chosen = sure.max(dim=0)
        earlier = readout.logits_at(torch.tensor(names, device=scores.device)[chosen]).clamp_min(-1e30)
        return among(keep, scores + self.alpha * weight[:, None] * earlier, scores)

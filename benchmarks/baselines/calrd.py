"""CALRD: what a layer was sure of before the greatest late change is restored if it was lost."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.baselines.places import earlier_readout
from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout


@dataclass(frozen=True, slots=True)
class CALRD:
    """``(1 - weight) z_L + weight z_t``: conflict-aware layer reference decoding.

    The onset is the readout at which the entropy falls most; t is what enters the block of the largest js
    from there on; ``weight = p_t[w] (1 - min(1, p_L[w] / p_t[w]))`` with w the best token at t. Distributions
    are the model's own, and ``weight (z_t - z_L)`` is added to the scores, so that what other processors did
    to them stays in full. Where the entropy falls most in the last block, nothing is done.

    Guessed (no code is out): layers are read through the final norm, which their ``W_head h`` leaves open;
    the onset's search begins at readout 2, the entropy of the embeddings being undefined there. ``strength``
    and a fixed ``onset`` are ours, for tuning; left alone they change nothing.

    Attributes:
        strength: factor of the weight, which stays at most 1.
        onset: a readout or a fraction of the depth to begin at; None to find it for each token.

    Raises: ValueError when a knob is out of range.

    Source: Li et al., IJCAI 2026, arXiv 2606.17953, section 4 and algorithm 1.
    """

    strength: float = 1.0
    onset: float | int | None = None
    always: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"strength is 0 or more; got {self.strength!r}")

    def readouts(self, depth: int) -> tuple[int, ...]:
        """All but the embeddings, or those from the onset on. Raises: ValueError when there is none."""
        if depth < 2:
            raise ValueError("CALRD compares layers; a model of one block has none to compare")
        return tuple(range(1 if self.onset is None else earlier_readout("onset", self.onset, depth), depth))

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        depth, names = readout.depth, (*self.readouts(readout.depth), readout.depth)
        onset = torch.full_like(scores[:, 0], names[0])
        if self.onset is None:
            entropy = torch.stack([torch.special.entr(readout.log_probs(n).exp()).sum(dim=-1) for n in names])
            onset = (entropy[:-1] - entropy[1:]).argmax(dim=0) + names[1]
        blocks = torch.arange(depth, device=scores.device)
        js = readout.js(range(names[0], depth)).where(blocks >= onset[:, None], -1)
        before = js.argmax(dim=-1).where(onset < depth, depth)
        confidence, token = readout.log_probs(before).max(dim=-1, keepdim=True)
        retained = (readout.log_probs(depth).gather(-1, token) - confidence).exp().clamp_max(1)
        weight = (self.strength * confidence.exp() * (1 - retained)).clamp_max(1)
        change = readout.logits_at(before).clamp_min(-1e30) - readout.logits_at(depth).clamp_min(-1e30)
        return among(True, scores + weight * change, scores)

"""SLED: one step of the final logits towards what the earlier layers' logits were on their way to."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.baselines.places import earlier_readout
from benchmarks.baselines.tokens import among
from mutation_decode import Mutations, Readout


@dataclass(frozen=True, slots=True)
class SLED:
    """``z_L - rate (softmax(z_L) - latent)`` on the ``scale`` most probable tokens, -inf elsewhere.

    A layer n speaks for token i by ``max(0, cos(p_n - e_i, z_n - z_L))^2``; ``latent`` is what all layers say
    together, normalised (the same as normalising each and weighting it by its sum). As in the published
    generation code there is one step, and layers are read without the final norm (``norm: false``). Other
    tokens get -inf, not its -1000, and rows are separate. ``z_L - z_n`` takes the model's own logits: the
    cosine would notice a constant; elsewhere ``z_L`` is what other processors made of it.

    Attributes:
        rate: the length of the step, above 0.
        scale: how many tokens take part.
        first: the first layer that speaks: a readout, or a fraction of the depth. All from there on do.

    Raises: ValueError when a knob is out of range.

    Source: Zhang et al., NeurIPS 2024, arXiv 2411.02433, and JayZhang42/SLED (run_*.py, generation/utils.py).
    """

    rate: float = 2.0
    scale: int = 10
    first: float | int = 0
    always: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.scale < 1:
            raise ValueError(f"rate is above 0, scale 1 or more; got {self!r}")

    def readouts(self, depth: int) -> tuple[int, ...]:
        """The layers that speak. Raises: ValueError when the first is not in 0..depth-1."""
        return tuple(range(earlier_readout("first", self.first, depth), depth))

    def __call__(self, readout: Readout, mutations: Mutations, scores: Tensor) -> Tensor:
        """``[rows, vocab]`` log-probabilities; -inf stays -inf."""
        final = readout.logits_at(readout.depth)
        tokens = scores.topk(min(self.scale, scores.shape[-1])).indices
        picked = torch.zeros(*tokens.shape, scores.shape[-1], device=scores.device)
        picked.scatter_(-1, tokens[..., None], 1)
        said = torch.zeros(tokens.shape, device=scores.device)
        for name in self.readouts(readout.depth):
            logits = readout.logits_at(name)
            way = (logits - final).nan_to_num(0, 0, 0)  # a token that is at -inf has none
            towards = logits.softmax(dim=-1)[:, None] - picked
            said += torch.cosine_similarity(towards, way[:, None], dim=-1).clamp_min(0).square()
        latent = said / said.sum(dim=-1, keepdim=True).clamp_min(1e-30)
        step = scores.softmax(dim=-1).scatter_add(-1, tokens, -latent)
        return among(picked.any(dim=1), scores - self.rate * step, scores)

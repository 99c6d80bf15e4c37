"""What a method hands back: scores of the tokens that it leaves in."""

import math

import torch
from torch import Tensor


def among(keep: Tensor | bool, moved: Tensor, scores: Tensor) -> Tensor:
    """Log-probabilities of ``moved`` among the tokens kept, -inf elsewhere.

    Args:
        keep: ``[rows, vocab]``, or True for all that ``scores`` allow; those at -inf never are kept.
        moved, scores: ``[rows, vocab]``. A row that keeps nothing comes back as its ``scores``.
    """
    keep = keep & (scores > -math.inf) & (moved > -math.inf)
    kept = torch.where(keep, moved, -math.inf).log_softmax(dim=-1)
    return torch.where(keep.any(dim=-1, keepdim=True), kept, scores)

"""The tokens that a contrast may choose among."""

import math

from torch import Tensor


def plausible(scores: Tensor, beta: float) -> Tensor:
    """`[rows, vocab]`, true from ``beta`` times the row's best probability on; false wherever -inf is."""
    floor = scores.amax(dim=-1, keepdim=True) + (math.log(beta) if beta > 0 else -math.inf)
    return (scores >= floor) & (scores > -math.inf)


def check_beta(beta: float) -> None:
    """Raises: ValueError when it is no share."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is a share of the best probability, between 0 and 1; got {beta!r}")

"""Away from what the model says without the picture: M3ID, and PAI's part on the logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import Loaded
from benchmarks.prompting import Messages
from benchmarks.second_forward.plausible import check_beta, plausible


@dataclass(frozen=True, slots=True)
class M3ID:
    """Mutual-information decoding: ``z + (z - z') (1 - g) / g``, ``g = exp(-decay (t + start))``, z' blind.

    The later the token t = 0, 1, ..., the more; where the model is confident, nothing. Its authors published
    no code; the code of others leaves the confidence out (``confident: 1``) and adds plausibility
    (``beta: 0.1``).

    Attributes:
        decay: of what a token still knows of the picture, at least 0.
        start: tokens from the picture to the first one of the answer; the paper has 0 for captions and 10, a
            question's length, for POPE.
        confident: probability of the best token from which on the row stays as it is, above 0 and at most 1.
        beta: share of the best probability from which on a token is plausible, in [0, 1]; 0 for any, as in
            the paper.

    Raises: ValueError when a knob is out of range.

    Source: Favero et al., CVPR 2024, arXiv:2403.14003, eq. 3-4 and algorithm 1.
    """

    decay: float = 0.02
    start: int = 0
    confident: float = 0.3
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_beta(self.beta)
        for name, value in (("decay", self.decay), ("start", self.start)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is a finite number, at least 0; got {value!r}")
        if not 0 < self.confident <= 1:
            raise ValueError(f"confident is a probability above 0 and at most 1; got {self.confident!r}")

    def other(self, loaded: Loaded, conversations: Sequence[Messages], inputs: Any, seed: int) -> Any:
        """The inputs of the conversations without their images."""
        return loaded.inputs([blind(messages) for messages in conversations])

    def combine(self, scores: Tensor, other: Tensor, step: int) -> Tensor:
        """`[rows, vocab]`; a constant added to a row's scores comes back 1 / g times."""
        weight = math.expm1(self.decay * (step + self.start))
        moved = scores + weight * (scores - other)
        best = scores.softmax(dim=-1).amax(dim=-1, keepdim=True)
        moved = torch.where(best < self.confident, moved, scores)
        return torch.where(plausible(scores, self.beta), moved, -math.inf)


@dataclass(frozen=True, slots=True)
class PAI:
    """Paying attention to the image, its part on the logits: ``gamma (log p - log p') + log p'``, p' blind.

    The other part raises attention to the picture inside the model; it is not here.

    Attributes:
        gamma: 1 is the model itself, more is away from what it says without the picture.
        beta: share of the best probability from which on a token is plausible, in [0, 1]; others go to -inf.

    Raises: ValueError when a knob is out of range.

    Source: Liu et al., ECCV 2024, arXiv:2407.21771; LALBJ/PAI, CFG.py at 4a085d1.
    """

    gamma: float = 1.1
    beta: float = 0.1

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if not math.isfinite(self.gamma):
            raise ValueError(f"gamma is a finite number; got {self.gamma!r}")

    def other(self, loaded: Loaded, conversations: Sequence[Messages], inputs: Any, seed: int) -> Any:
        """The inputs of the conversations without their images."""
        return loaded.inputs([blind(messages) for messages in conversations])

    def combine(self, scores: Tensor, other: Tensor, step: int) -> Tensor:
        """`[rows, vocab]`; a constant added to a row's scores changes nothing."""
        own, without = scores.log_softmax(dim=-1), other.log_softmax(dim=-1)
        moved = self.gamma * (own - without) + without
        return torch.where(plausible(scores, self.beta), moved, -math.inf)


def blind(messages: Messages) -> Messages:
    """The conversation without its images."""
    return [{**m, "content": [part for part in m["content"] if part["type"] != "image"]} for m in messages]

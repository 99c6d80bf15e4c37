"""How far rounding alone moves the logits of a model: the measure for two ways to work out the same thing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mutation_decode import Anatomy

A_BLOCK = 4 * torch.finfo(torch.float32).eps
"""Relative; a block rounds after each of its norms, products and sums, not after the last of them alone."""


@contextmanager
def rounded_otherwise(parts: Anatomy, seed: int) -> Iterator[None]:
    """Every block's states are off by their rounding inside, as those of another order of sums are."""
    random = torch.Generator().manual_seed(seed)

    def move(_block: Any, _args: Any, output: Any) -> Any:
        states = output if isinstance(output, Tensor) else output[0]
        states = states * (1 + A_BLOCK * torch.randn(states.shape, generator=random))
        return states if isinstance(output, Tensor) else (states, *output[1:])

    handles = [block.register_forward_hook(move) for block in parts.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

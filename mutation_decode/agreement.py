"""Whether two computations of the same values agree, as far as their dtype lets them."""

import torch
from torch import Tensor


def tolerance(logits: Tensor, dtype: torch.dtype | None = None) -> float:
    """How far two computations of the same values may lie apart, from their dtype and size.

    Args:
        dtype: in which they were computed, where they were made finer afterwards.
    """
    relative = max(1e-4, *(8 * torch.finfo(kind).eps for kind in (logits.dtype, dtype or logits.dtype)))
    return relative * float(logits.abs().amax())


def apart(one: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> tuple[float, float]:
    """How far two computations of the same logits lie apart, and how far they may.

    Entries that a model forbids, with -inf or the lowest number there is, have to be forbidden in both.
    """
    one, other = one.detach(), other.detach().to(one.device)
    floor = torch.finfo(one.dtype).min / 2
    real, same = (one > floor) & (one < -floor), (other > floor) & (other < -floor)
    if not torch.equal(real, same) or not bool(real.any()):
        return float("inf"), 0.0
    return float((one - other)[real].abs().max()), tolerance(other[real], dtype)

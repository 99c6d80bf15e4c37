"""Whether layers say of a state what they say of it beside other states; some that quantise do not.

Dynamic int8 takes one scale for all that a layer is given in a call, and bitsandbytes' 8 bits decide over all
of it which columns stay in fp16. Either is found by trying it, so no kind of layer is known by name here.
"""

import torch
from torch import Tensor, nn

from .agreement import apart
from .anatomy import Anatomy
from .probe import first_parameter, works


def by_row(layer: nn.Module, states: Tensor) -> bool:
    """Whether a layer says the same of the last of these states `[rows, positions, d]` beside a large one."""
    state = states[:, -1:]
    beside = layer.forward(torch.cat([100 * state, state], dim=1))[:, -1:]
    off, allowed = apart(beside, layer.forward(state))
    return off <= allowed / 2  # the same products, summed in another order at most


def mixes_positions(parts: Anatomy) -> bool:
    """Whether there are layers in the blocks in which a position's result depends on those beside it."""
    kinds = {type(m): m for block in parts.blocks for m in block.modules() if type(m) is not nn.Linear}
    return any(_mixes(m, parts) for m in kinds.values() if isinstance(getattr(m, "in_features", None), int))


def _mixes(layer: nn.Module, parts: Anatomy) -> bool:
    weight = first_parameter(parts.owner)
    device = torch.device("cpu") if weight.device.type == "meta" else weight.device
    # Small numbers and one large one, below the 6 that bitsandbytes leaves in fp16: 8 bits tell them badly.
    state = 0.1 * torch.sin(1.7 * torch.arange(int(layer.in_features), device=device))  # type: ignore[arg-type]
    state[0] = 5.0
    said: list[bool] = []
    works(lambda: said.append(by_row(layer, state.to(weight.dtype)[None, None])), parts.owner)
    return said == [False]

"""What changes the states between two blocks: modules of a list of their own, such as cross-attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mutation_decode import Anatomy


@contextmanager
def still(parts: Anatomy, after: int) -> Iterator[None]:
    """Such modules leave the states as they are from the end of this block to the end of the last one."""
    between = False

    def switch(on: bool) -> Any:
        def hook(*_: Any) -> None:
            nonlocal between
            between = on

        return hook

    def leave(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        entered = args[0] if between and args else None
        same = isinstance(entered, Tensor) and isinstance(output, Tensor) and entered.shape == output.shape
        return entered if same else None

    handles = [module.register_forward_hook(leave) for module in _beside(parts)]
    handles.append(parts.blocks[after].register_forward_hook(switch(True)))
    handles.append(parts.blocks[-1].register_forward_hook(switch(False)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _beside(parts: Anatomy) -> list[nn.Module]:
    """The modules in the other lists of the module that has the list of blocks."""
    for module in parts.owner.modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        if any(parts.blocks[0] is block for blocks in lists for block in blocks):
            return [m for other in lists for m in other if not any(m is block for block in parts.blocks)]
    return []

"""Depth compression: blocks that do not run at all, at any position of prompt and answer.

What enters such a block leaves it. Models ask single cache layers how many positions they have seen, so the
cache layer of a block that does not run is given one number a position and row.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .anatomy import Anatomy, first_tensor, probe_inputs, standing_in, undisturbed
from .lens import LogitLens
from .rollback import cache_indices, self_attention


class Removal:
    """Leaves blocks of a model out of the forwards that a lens listens to.

    Args:
        lens: says which forwards.
        blocks: which blocks, each in 0..L-1.

    Raises:
        ValueError: if one of them hands on more than states: the blocks after it would miss that.
    """

    def __init__(self, lens: LogitLens, blocks: Iterable[int]) -> None:
        self._lens = lens
        self._numbers = tuple(blocks)
        self._returned = _what_blocks_return(lens.anatomy)
        for number in self._numbers:
            if self._returned.get(number) is None:
                raise ValueError(
                    f"{type(lens.anatomy.owner).__name__}: block {number} hands on more than its states, or "
                    f"does not run on text alone, so it cannot be left out of the prompt; choose "
                    f"others, or Skip(layers=...) without prompt=True."
                )

    @contextmanager
    def on(self) -> Iterator[None]:
        """The blocks do not run inside; enter the lens first."""
        with ExitStack() as stack:
            for number in self._numbers:
                block = self._lens.anatomy.blocks[number]
                stack.enter_context(standing_in(block, self._identity(number, block)))
            yield

    def _identity(self, number: int, block: nn.Module) -> Any:
        plain, indices, arity = block.forward, cache_indices(block), self._returned[number]

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._lens.listening:
                return plain(*args, **kwargs)
            states = first_tensor((*args, *kwargs.values()))
            for cache in (x for x in (*args, *kwargs.values()) if isinstance(x, Cache)):
                for index in indices:
                    _count(self_attention(cache), index, states)
            return (states, *[None] * (arity - 1)) if arity else states

        return forward


def _what_blocks_return(anatomy: Anatomy) -> dict[int, int | None]:
    """For each block that runs on text: 0 for bare states, n for a tuple of n that holds no more, or None."""
    found: dict[int, int | None] = {}

    def note(number: int) -> Any:
        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[number] = 0
            else:
                alone = type(output) is tuple and all(item is None for item in output[1:])
                found[number] = len(output) if alone else None

        return hook

    handles = [block.register_forward_hook(note(number)) for number, block in enumerate(anatomy.blocks)]
    try:
        with undisturbed(anatomy.owner):
            anatomy.owner(**probe_inputs(anatomy.owner))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _count(cache: Cache, index: int, states: Tensor) -> None:
    layer = cache.layers[index] if index < len(cache.layers) else None
    if layer is not None and hasattr(layer, "has_previous_state"):
        layer.has_previous_state = dict.fromkeys(layer.has_previous_state, True)
    if layer is None or isinstance(layer, CacheLayerMixin):
        nothing = states.new_zeros(states.shape[0], 1, states.shape[1], 1)
        cache.update(nothing, nothing, index)

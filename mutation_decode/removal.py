"""A set of blocks that is known beforehand: left out at every answered token, or of the prompt as well.

At every token: the blocks run, for their cache entries, and what entered them at the last position goes on.
Of the prompt as well (depth compression): they do not run at all, at any position. Models ask single cache
layers how many positions they have seen, so the cache layer of such a block is given one number a position.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .anatomy import Anatomy
from .hooks import Heard, of_this_thread
from .lens import LogitLens
from .probe import probe_inputs, works
from .rollback import cache_indices, self_attention
from .stand_in import standing_in
from .states import first_tensor


class Removal:
    """Leaves blocks of a model out of the forwards that a lens listens to.

    Args:
        lens: says which forwards.
        blocks: which blocks, each in 0..L-1.
        prompt: leave them out at every position, and do not run them; otherwise at the last one only.

    Raises:
        ValueError: with `prompt`, if one of them hands on more than states: the next ones would miss that.
    """

    def __init__(self, lens: LogitLens, blocks: Iterable[int], *, prompt: bool) -> None:
        self._lens = lens
        self._prompt = prompt
        self._blocks = {number: lens.anatomy.blocks[number] for number in blocks}
        self._returned = _what_blocks_return(lens.anatomy) if prompt else {}
        for number in self._blocks if prompt else ():
            if self._returned.get(number) is None:
                raise ValueError(
                    f"{type(lens.anatomy.owner).__name__}: block {number} hands on more than its states, or "
                    f"does not run on text alone, so it cannot be left out of the prompt; choose "
                    f"others, or Skip(layers=...) without prompt=True."
                )
        if prompt and not works(self._on_text, lens.anatomy.owner):
            raise ValueError(
                f"{type(lens.anatomy.owner).__name__} does not run without blocks "
                f"{', '.join(map(str, self._blocks))}, as where later ones share their keys; choose others, "
                f"or Skip(layers=...) without prompt=True."
            )

    @contextmanager
    def on(self) -> Iterator[None]:
        """The blocks are left out inside; enter the lens first."""
        with ExitStack() as stack:
            for number, block in self._blocks.items():
                without = self._absent if self._prompt else self._bypassed
                stack.enter_context(without(number, block))
            yield

    def _on_text(self) -> None:
        owner = self._lens.anatomy.owner
        with self._lens, self.on():
            owner(**probe_inputs(owner), use_cache=True)

    def _absent(self, number: int, block: nn.Module) -> AbstractContextManager[None]:
        indices, arity = cache_indices(block), self._returned[number]
        passed = self._lens.anatomy.states

        def make(plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if not self._lens.listening:
                    return plain(*args, **kwargs)
                states = first_tensor((*args, *kwargs.values()))
                for cache in (x for x in (*args, *kwargs.values()) if isinstance(x, Cache)):
                    for index in indices:
                        _count(self_attention(cache), index, passed.entered(args, kwargs, number))
                return (states, *[None] * (arity - 1)) if arity else states

            return forward

        return standing_in(block, make)

    @contextmanager
    def _bypassed(self, number: int, block: nn.Module) -> Iterator[None]:
        passed = self._lens.anatomy.states

        def replace(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            entered, left = passed.entered(args, kwargs, number), passed.left(number, args, kwargs, output)
            both = torch.cat([left[:, :-1], entered[:, -1:]], dim=1)
            states = passed.given(both, number + 1)[0]
            return states if isinstance(output, Tensor) else (states, *output[1:])

        # Before the lens, which reads what goes on.
        handle = block.register_forward_hook(
            Heard(replace, lambda: self._lens.listening), with_kwargs=True, prepend=True
        )
        try:
            yield
        finally:
            handle.remove()


def _what_blocks_return(anatomy: Anatomy) -> dict[int, int | None]:
    """For each block that runs on text: 0 for bare states, n for a tuple of n that holds no more, or None."""
    found: dict[int, int | None] = {}

    def note(number: int) -> Any:
        @of_this_thread
        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[number] = 0
            else:
                alone = type(output) is tuple and all(item is None for item in output[1:])
                found[number] = len(output) if alone else None

        return hook

    handles = [block.register_forward_hook(note(number)) for number, block in enumerate(anatomy.blocks)]
    on_text = works(lambda: anatomy.owner(**probe_inputs(anatomy.owner)), anatomy.owner)
    for handle in handles:
        handle.remove()
    return found if on_text else {}


def _count(cache: Cache, index: int, states: Tensor) -> None:
    layer = cache.layers[index] if index < len(cache.layers) else None
    if layer is not None and hasattr(layer, "has_previous_state"):
        layer.has_previous_state = tree_map(lambda _: True, layer.has_previous_state)
    keys = getattr(layer, "keys", None)
    if isinstance(keys, Tensor) and keys.numel() and (keys.shape[1], keys.shape[-1]) != (1, 1):
        raise ValueError(
            "the cache holds keys of a block that prompt=True leaves out: it was begun without this Skip, or "
            "made beforehand; begin a new one with it."
        )
    if layer is None or isinstance(layer, CacheLayerMixin):
        nothing = states.new_zeros(states.shape[0], 1, states.shape[1], 1)
        cache.update(nothing, nothing, index)

"""What a model makes of another last state: all that its own code does after its blocks, and nothing before.

Models scale, cap or forbid logits after the head in their own ways. So the owner's forward itself runs again,
with the same arguments; the module around the blocks (or, where there is none, each block) returns at once
what came out of it before, and the head is given the other state.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy
from .hooks import of_this_thread
from .lens import logits_of
from .stand_in import standing_in


@dataclass(slots=True)
class Replay:
    """One forward of the owner, to be ended in another way.

    Attributes:
        args, kwargs: what the owner was called with.
        body: the outermost module around the blocks, and what it returned.
        last: what the last block returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    body: tuple[nn.Module, Any] | None = None
    last: Any = None

    @property
    def ids(self) -> Tensor | None:
        """The ids `[rows, positions]` that the owner was given; None if it was given embeddings."""
        given = [self.kwargs.get("decoder_input_ids"), self.kwargs.get("input_ids"), *self.args]
        return next((x for x in given if isinstance(x, Tensor) and not x.is_floating_point()), None)

    def logits(self, parts: Anatomy, state: Tensor) -> Tensor:
        """The logits `[rows, 1, vocab]` that come of a last state `[rows, 1, ...]`."""
        # What blocks return does not matter, as long as it looks like it: the head will not see it.
        known = [self.body] if self.body is not None else [(block, self.last) for block in parts.blocks]
        handle = parts.head.register_forward_pre_hook(_in_place_of_the_last(parts.finish(state)))
        try:
            with ExitStack() as stack:
                for module, output in known:
                    stack.enter_context(standing_in(module, _returns(output)))
                return logits_of(parts.owner.forward(*self.args, **self.kwargs))[:, -1:]
        finally:
            handle.remove()


def around_the_blocks(parts: Anatomy) -> list[nn.Module]:
    """The modules that hold the blocks and not the head, from the outside in."""
    return [
        module
        for module in parts.owner.modules()
        if not isinstance(module, nn.ModuleList)
        and module is not parts.blocks[-1]
        and any(m is parts.blocks[-1] for m in module.modules())
        and not any(m is parts.head for m in module.modules())
    ]


def _returns(output: Any) -> Callable[[Any], Callable[..., Any]]:
    return lambda _plain: lambda *_, **__: output


def _in_place_of_the_last(states: Tensor) -> Any:
    @of_this_thread
    def replace(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Beside the positions that it stood beside: a quantised head may choose one scale for all of them.
        return (torch.cat([args[0][:, :-1], states.to(args[0])], dim=1), *args[1:])

    return replace

"""Runs a compiled model as it was before torch.compile, where its layers have to be watched.

A compiled graph does not look whether hooks came or went since it was made: it passes by new ones, and goes
on with old ones.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from .stand_in import standing, standing_in

# What torch.compile(module.forward) and module.compile() leave behind, and what it was made of.
PLACES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "forward": lambda _, made: getattr(made, "_torchdynamo_orig_callable", None),
    "_compiled_call_impl": lambda module, made: None if made is None else module._call_impl,
}


def compiled_parts(model: nn.Module) -> list[tuple[nn.Module, str, Callable[..., Any]]]:
    """Each module that torch.compile was applied to, the attribute that has it, and what was there before."""
    found = (
        (module, name, before(module, standing(module, name)))
        for module in model.modules()
        for name, before in PLACES.items()
    )
    return [(module, name, plain) for module, name, plain in found if plain is not None]


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside, in this thread, nothing of the model runs compiled; other threads go on as they were."""
    with ExitStack() as stack:
        for module, name, plain in compiled_parts(model):
            stack.enter_context(standing_in(module, _put(plain), name))
        yield


def _put(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda _: plain

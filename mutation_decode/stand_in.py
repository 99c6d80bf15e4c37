"""Another function in place of a module's forward, seen by one thread only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class _PerThread:
    """Stands in for a module's forward; a thread that has put nothing in its place gets the module's own."""

    lock = threading.Lock()

    def __init__(self, module: nn.Module, name: str) -> None:
        self.before = module.__dict__.get(name)
        self.plain = self.__wrapped__ = getattr(module, name)  # generate looks at a forward's signature
        self.of: dict[int, Callable[..., Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.of.get(threading.get_ident(), self.plain)(*args, **kwargs)


@contextmanager
def standing_in(
    module: nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]], name: str = "forward"
) -> Iterator[None]:
    """Another function in place of a module's forward, on this instance and in this thread only.

    Args:
        make: is given the forward that was there, and returns the one to use.
        name: another attribute that the module is called by.
    """
    me = threading.get_ident()
    with _PerThread.lock:
        there = module.__dict__.get(name)
        stand_in = there if isinstance(there, _PerThread) else _PerThread(module, name)
        outer = stand_in.of.get(me)
        stand_in.of[me] = make(outer or stand_in.plain)
        module.__dict__[name] = stand_in
    try:
        yield
    finally:
        with _PerThread.lock:
            if outer is None:
                del stand_in.of[me]
            else:
                stand_in.of[me] = outer
            if not stand_in.of and stand_in.before is None:
                del module.__dict__[name]
            elif not stand_in.of:
                module.__dict__[name] = stand_in.before


def standing(module: nn.Module, name: str = "forward") -> Any:
    """What the module is called by in this thread, as of now."""
    there = module.__dict__.get(name)
    if isinstance(there, _PerThread):
        return there.of.get(threading.get_ident(), there.plain)
    return getattr(module, name)

"""Hooks that other threads may run into: each is called only in forwards that concern it."""

import threading
from collections.abc import Callable
from typing import Any


class Heard:
    """The hook, called only where `listening()` says so, and else as if it were not there.

    Asked before arguments are counted: if another thread puts on or takes away a hook in the middle of a
    forward, torch may call it all the same, without the keyword arguments that it wants. An object, as a
    function would be copied with its model without a look at what it holds.
    """

    def __init__(self, hook: Callable[..., Any], listening: Callable[[], object]) -> None:
        self.hook = hook
        self.listening = listening

    def __call__(self, *args: Any) -> Any:
        return self.hook(*args) if self.listening() else None


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, deaf to forwards that other threads make of the model meanwhile."""
    mine = threading.get_ident()
    return Heard(hook, lambda: threading.get_ident() == mine)

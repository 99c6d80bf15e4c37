"""Hooks that other threads may run into: each is called only in forwards that concern it."""

import threading
from collections.abc import Callable
from typing import Any


def heard(hook: Callable[..., Any], listening: Callable[[], object]) -> Callable[..., Any]:
    """The hook, called only where `listening()` says so, and else as if it were not there.

    Asked before arguments are counted: if another thread puts on or takes away a hook in the middle of a
    forward, torch may call it all the same, without the keyword arguments that it wants.
    """

    def call(*args: Any) -> Any:
        return hook(*args) if listening() else None

    return call


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, deaf to forwards that other threads make of the model meanwhile."""
    mine = threading.get_ident()
    return heard(hook, lambda: threading.get_ident() == mine)

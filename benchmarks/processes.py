"""One run in several processes: ``torchrun`` or ``accelerate launch`` start them, each answers a share.

Whoever starts them sets RANK and WORLD_SIZE; without these a run is one process and none of this is felt.
All processes plan, tune and score alike, from the same files; the first one alone writes what they share.
"""

import os
from datetime import timedelta
from functools import cache
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: a share may take days. One that dies is missed at once anyway."""


def rank() -> int:
    """This process, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Until every process has come here."""
    if count() > 1:
        _state().wait_for_everyone()


def agreed(value: T) -> T:
    """The first process's value, in every process."""
    if count() == 1:
        return value
    _state()
    found: T = broadcast_object_list([value])[0]
    return found


@cache
def _state() -> PartialState:
    # Nothing but files and barriers is shared, so gloo does, whatever device the models are on.
    return PartialState(cpu=True, timeout=PATIENCE)

"""Each model type in a process of its own: what crashes, hangs or eats memory there ends one line only."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.conformance.outcome import Outcome

SECONDS, MEMORY = 300, 8 << 30
"""What one type may take: wall-clock time, and bytes of memory of its own."""

ONE_AT_A_TIME = threading.Lock()
"""Whenever one process starts, multiprocessing looks after the others, and an exit code is read only once."""


def outcomes(
    check: Callable[[str], Outcome],
    names: Sequence[str],
    *,
    processes: int,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[Outcome]:
    """What ``check`` says of each name, in the same order, some at the same time.

    Args:
        check: a function of a module, which is imported once and not for every name.
        seconds, memory: what one name may take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([check.__module__])
    with ThreadPoolExecutor(processes) as pool:
        yield from pool.map(lambda name: _outcome(context, check, name, seconds, memory), names)


def _outcome(
    context: Any, check: Callable[[str], Outcome], name: str, seconds: float, memory: int
) -> Outcome:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, check, name, memory), daemon=True)
    with ONE_AT_A_TIME:
        process.start()
    theirs.close()
    why = f"took more than {seconds:g} seconds"
    try:
        if ours.poll(seconds):
            outcome: Outcome = ours.recv()
            return outcome
    except EOFError:  # it ended without a word
        with ONE_AT_A_TIME:
            process.join()
        why = f"its process ended by itself ({_ended(process.exitcode)})"
    finally:
        with ONE_AT_A_TIME:
            process.kill()
            process.join()
        ours.close()
    return Outcome(why, why)


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _child(pipe: Connection, check: Callable[[str], Outcome], name: str, memory: int) -> None:
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # What a model's own code prints is not ours to show.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    pipe.send(check(name))

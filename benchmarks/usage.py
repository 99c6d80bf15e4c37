"""What a user can mend: it ends a run with one line and exit code 2, while a bug keeps its traceback."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Says what was expected, what came and what to do, in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What to offer in place of a wrong name: the closest known ones, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    meant = f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    return f"{meant}There are {', '.join(names)}"

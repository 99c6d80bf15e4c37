"""The rule for answers that max_new_tokens cut off: score what is there, or its whole sentences only."""

import re

UNFINISHED = ("keep", "drop")
"""What can be done with the sentence that was cut off."""

_END = re.compile(r"[.!?\u3002][\"'\u201d\u2019)*]*(?=\s|$)")


def whole(text: str) -> str:
    """The text up to the end of its last whole sentence; as it is, when no sentence of it is whole.

    Example: "A dog runs. It has a fris" -> "A dog runs."
    """
    ends = [found.end() for found in _END.finditer(text)]
    return text[: ends[-1]] if ends else text

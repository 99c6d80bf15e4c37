"""Where in a text the objects are named that a scorer finds in it: scorers count them and keep no places."""

import re
from collections.abc import Callable, Sequence

WORD = re.compile(r"[^\W\d_]+")


def placed(objects: Callable[[str], Sequence[str]], text: str) -> list[tuple[str, int]]:
    """The objects of a text, in order and with repetition, each with where its first word begins.

    Args:
        objects: finds those of any text, whose names are of one or two words.

    Example: "A hot dog and two dogs." -> hot dog at 2, dog at 18.
    """
    found, words, expected = list[tuple[str, int]](), list(WORD.finditer(text)), iter(objects(text))
    wanted, at = next(expected, None), 0
    while wanted is not None and at < len(words):
        one, pair = [*objects(words[at][0])], False
        if at + 1 < len(words):
            both = text[words[at].start() : words[at + 1].end()]
            # Mostly the second word alone is what is named, as in "a red dog".
            whole = both.lower() == wanted or [*objects(words[at + 1][0])] != [wanted]
            pair = whole and [*objects(both)] == [wanted]
        if pair or one == [wanted]:
            found.append((wanted, words[at].start()))
            wanted = next(expected, None)
        at += 2 if pair else 1
    return found

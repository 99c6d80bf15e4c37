"""Which words of an answer another answer does not have at that place."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+|[^\w\s]")
"""What is compared: a word, a sign, or a letter of a script that writes words without blanks."""


def differing(answers: Sequence[Sequence[str]]) -> list[list[bool]]:
    """For each token of each answer, whether it belongs to a word that is another one elsewhere.

    The first answer is compared with every other one, these with the first.

    Args:
        answers: the pieces that the tokens of each answer add to its text.
    """
    words = [_words(pieces) for pieces in answers]
    found = [[False] * len(pieces) for pieces in answers]
    for other in range(1, len(answers)):
        one, two = ([word for word, _ in words[number]] for number in (0, other))
        for kind, start, stop, there, to in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
            if kind != "equal":
                for number, chosen in ((0, words[0][start:stop]), (other, words[other][there:to])):
                    for token in (token for _, tokens in chosen for token in tokens):
                        found[number][token] = True
    return found


def _words(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Each word, and the tokens that hold letters of it."""
    ends = list(accumulate(map(len, pieces)))
    words: list[tuple[str, list[int]]] = []
    token = 0
    for match in WORD.finditer("".join(pieces)):
        while ends[token] <= match.start():
            token += 1
        last = token
        while ends[last] < match.end():
            last += 1
        words.append((match.group(), [i for i in range(token, last + 1) if pieces[i]]))
    return words

"""Token ids as text, piece by piece: what each of them adds."""

from itertools import accumulate
from typing import Any

HALF = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for a letter of which it has not all the bytes."""


class Pieces:
    """An answer that grows; a token whose letter is not whole yet adds nothing.

    Args:
        tokenizer: anything with transformers' `decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._told = 0

    def add(self, token: int) -> str:
        """What the next token adds."""
        self._ids.append(token)
        # With the last word as context, which decides about blanks.
        before = text(self._ids[self._context : self._told], self._tokenizer)
        now = text(self._ids[self._context :], self._tokenizer)
        if len(now) <= len(before) or now.endswith(HALF):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return now[_common(before, now) :]  # a tokenizer may take back a blank that it has written

    def rest(self) -> str:
        """What is left over in the end, such as half a letter."""
        before, now = (
            text(self._ids[self._context : end], self._tokenizer) for end in (self._told, len(self._ids))
        )
        return now[_common(before, now) :]


def pieces(ids: list[int], tokenizer: Any) -> tuple[str, ...]:
    """What each token of a whole answer adds; together they are its text."""
    whole, growing = text(ids, tokenizer), Pieces(tokenizer)
    told = tuple(growing.add(token) for token in ids)
    if "".join(told) == whole:
        return told
    # A tokenizer that looks further back, or an answer that ends in half a letter: as far as each beginning
    # of the answer stays as it is, at a cost that grows with the square of its length.
    sure = [_common(text(ids[:end], tokenizer), whole) for end in range(1, len(ids) + 1)]
    ends = [*list(accumulate(reversed(sure), min))[:0:-1], len(whole)]
    return tuple(whole[start:end] for start, end in zip([0, *ends], ends, strict=False))


def text(ids: list[int], tokenizer: Any) -> str:
    """Without special tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _common(one: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    at = 0
    while at < min(len(one), len(other)) and one[at] == other[at]:
        at += 1
    return at

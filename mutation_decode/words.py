"""The object words of an answer: which there are, whether they are right, which token decided for each."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, Self

Kind = Literal["hallucinated", "correct", "other"]
KINDS: tuple[Kind, ...] = ("hallucinated", "correct", "other")

Mentions = Callable[[str], Iterable[tuple[str, int]]]
"""From an answer to the objects it names, in order and with repetition: name, and where its word begins."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Finds whole words and their plurals in s or es, whatever their case; the longest of several wins.

    Attributes:
        forms: a word in small letters -> the object it stands for.
    """

    forms: dict[str, str]
    _pattern: re.Pattern[str]

    @classmethod
    def of(cls, objects: Iterable[str]) -> Self:
        """The vocabulary of these object names; several words, such as "dining table", are one name.

        Raises:
            ValueError: if there is none, or one is empty.
        """
        names = dict.fromkeys(names_of(objects))
        if not names or "" in names:
            raise ValueError("an object is named by a word; there is none, or an empty one.")
        forms = {name + end: name for end in ("es", "s") for name in names} | {name: name for name in names}
        longest_first = sorted(forms, key=len, reverse=True)
        words = "|".join(r"\s+".join(map(re.escape, form.split())) for form in longest_first)
        return cls(forms, re.compile(rf"(?<!\w)(?:{words})(?!\w)"))

    def __call__(self, text: str) -> list[tuple[str, int]]:
        """See `Mentions`."""
        return [
            (self.forms[folded(match[0])], match.start()) for match in self._pattern.finditer(_small(text))
        ]


def folded(name: str) -> str:
    """A name in small letters, with single blanks."""
    return " ".join(_small(name).split())


def names_of(objects: Iterable[str]) -> list[str]:
    """Names of objects, folded.

    Raises:
        ValueError: if it is one text, every letter of which would count as an object.
    """
    if isinstance(objects, str):
        raise ValueError(f"expected several names of objects, got the text {objects!r}; write [{objects!r}].")
    return [folded(name) for name in objects]


def _small(text: str) -> str:
    """In small letters, each of them where it was: those that would become two stay."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as text, and its object words.

    Attributes:
        text: without special tokens.
        named: the objects it names, in order and with repetition.
        right: for each of them, whether the image shows it.
        deciding: for each of them, the index of the token that decided for it, its first one.
        truth: the objects that the image shows.
        tokens: how many tokens it has.
    """

    text: str
    named: tuple[str, ...]
    right: tuple[bool, ...]
    deciding: tuple[int, ...]
    truth: frozenset[str]
    tokens: int

    def kinds(self) -> list[Kind]:
        """For each token: whether it decided for a hallucinated or a correct object word, or is another."""
        kinds: list[Kind] = ["other"] * self.tokens
        for right, at in zip(self.right, self.deciding, strict=True):
            kinds[at] = "correct" if right else "hallucinated"
        return kinds


def read(tokens: Sequence[int], truth: Collection[str], tokenizer: Any, mentions: Mentions) -> Answer:
    """An answer from its token ids `[T]`.

    Args:
        truth: the objects that the image shows.
        tokenizer: anything with transformers' `decode`.
    """
    ids = [int(token) for token in tokens]
    known = frozenset(names_of(truth))
    ends = [len(_text(tokenizer, ids[: count + 1])) for count in range(len(ids))]
    # A text may become shorter by its next token, as where bytes come to be one letter.
    sure = list(accumulate(reversed(ends), min))[::-1]
    text = _text(tokenizer, ids)
    found = [(folded(name), start) for name, start in mentions(text)]
    # The first token that reaches into the word decides.
    deciding = tuple(next(k for k, end in enumerate(sure) if end > start) for _, start in found)
    named = tuple(name for name, _ in found)
    return Answer(text, named, tuple(name in known for name in named), deciding, known, len(ids))


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

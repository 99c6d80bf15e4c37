"""Benchmarks: where images, prompts and truth come from, and how answers become figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from benchmarks.statistics import Ratio, ratio

Read = Callable[[], Image.Image]
"""Reads an image when its turn comes, as it is; raises OSError or ValueError when it cannot."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says: text, after the images that it is about. ``role`` is user, assistant or system."""

    role: str
    text: str
    images: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One request to a model: the turns of a conversation, the user's last; mostly a prompt about an image.

    ``record`` is what its line among the predictions starts with; it holds ``image_id``, and its first entry
    tells the item from every other one of its task.
    """

    record: Mapping[str, str]
    turns: tuple[Turn, ...]

    @property
    def image_id(self) -> str:
        return self.record["image_id"]


def about(record: Mapping[str, str], prompt: str, *images: Read) -> Item:
    """One prompt about one image, or about several."""
    return Item(record, (Turn("user", prompt, images),))


class Task(Protocol):
    """A benchmark: its items, and the figures of the answers to them.

    ``answer`` is the name of the answer in a line of predictions; a line is an item's record, the answer, and
    ``tokens``, ``fired`` (tokens at which the strategy acted), ``truncated`` (no end within max_new_tokens).
    """

    @property
    def answer(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    def items(self) -> Sequence[Item]:
        """Raises: UsageError when the data cannot be found, or holds nothing."""
        ...

    def files(self) -> Sequence[Path]:
        """The files that questions and truth are from, images aside; their checksums go with the figures."""
        ...

    def score(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
        """Figures over the images of ``lines`` in the order in which these first name them."""
        ...


def figures(task: Task, lines: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
    """The task's figures and the general ones; every line must hold an answer, at least one must be there."""
    return {**task.score(lines), **general(lines, task.answer)}


def general(lines: Iterable[Mapping[str, Any]], answer: str) -> dict[str, Ratio]:
    """What is worth knowing of any answers: length in words, fired and truncated in percent; by image."""
    columns: dict[str, list[int]] = {}
    for line in lines:
        sums = columns.setdefault(line["image_id"], [0, 0, 0, 0, 0])
        values = (len(line[answer].split()), 1, line["fired"], line["tokens"], line["truncated"])
        columns[line["image_id"]] = [a + b for a, b in zip(sums, values, strict=True)]
    words, answers, fired, tokens, truncated = zip(*columns.values(), strict=True)
    return {
        "length": ratio(words, answers, scale=1),
        "fired": ratio(fired, tokens),
        "truncated": ratio(truncated, answers),
    }

"""Which words of an answer name objects, and whether these are in the image: what a score counts, to see."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from benchmarks.answered import Line
from benchmarks.calibration import KnowsObjects
from benchmarks.pictures import TellsWords
from benchmarks.tasks import Task
from benchmarks.tasks.amber import Response
from benchmarks.tasks.amber_nouns import plural
from benchmarks.tasks.placed import WORD

HYPHENED = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


@runtime_checkable
class FindsNouns(Protocol):
    """A task that scores descriptions by AMBER's rules."""

    def responses(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Response]:
        """What the score finds in each response, in the order of the lines."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """A word, or two, of a text that names an object; ``there`` says whether the image shows it."""

    start: int
    end: int
    name: str
    there: bool


def hallucinated(task: Task, lines: Sequence[Line]) -> list[int] | None:
    """How many mentions of each caption are hallucinated, as the task counts them; None if it does not."""
    if isinstance(task, FindsNouns):
        return [len(response.hallucinated) for response in task.responses(lines).values()]
    if isinstance(task, KnowsObjects):
        counted = task.score(lines).get("CHAIR_i")
        if counted is not None and len(counted.numerator) == len(lines):
            return [int(count) for count in counted.numerator]
    elif not isinstance(task, TellsWords):
        return None
    return [sum(not mark.there for mark in marks(task, line)[1]) for line in lines]


def marks(task: Task, line: Line) -> tuple[list[str], list[Mark]]:
    """The objects of the image, as far as they are known, and the marks of its caption, in order.

    A mention that the score finds and that has no place of its own in the text has no mark.
    """
    text, image = line[task.answer], line["image_id"]
    if isinstance(task, FindsNouns):
        (response,) = task.responses([line]).values()
        return sorted(response.item.truth), _nouns(text, response)
    if isinstance(task, KnowsObjects):
        shown = task.shown(image)
        found = [Mark(at, _end(task, text, at, name), name, name in shown) for name, at in task.named(text)]
        return sorted(shown), found
    assert isinstance(task, TellsWords)
    words = list(WORD.finditer(text))
    kinds = task.kinds([word[0] for word in words], image)
    return [], [
        Mark(word.start(), word.end(), word[0], kind == "correct")
        for word, kind in zip(words, kinds, strict=True)
        if kind in ("correct", "hallucinated")
    ]


def _end(task: KnowsObjects, text: str, at: int, name: str) -> int:
    """Where an object's name ends that begins at ``at``: after one word, or after two, as in "hot dog"."""
    first, *others = list(WORD.finditer(text, at))[:2]
    alone = [found for found, _ in task.named(first[0])] == [name]
    if not others or (alone and text[at : others[0].end()].lower() != name):
        return first.end()
    return others[0].end()


def _nouns(text: str, response: Response) -> list[Mark]:
    """The nouns of a response, each at the next word that is a form of it; a noun without one has no mark."""
    found, at = list[Mark](), 0
    words = list(HYPHENED.finditer(text))
    for noun in response.nouns:
        forms = (noun, plural(noun))
        place = next((number for number in range(at, len(words)) if words[number][0] in forms), None)
        if place is not None:
            word, at = words[place], place + 1
            found.append(Mark(word.start(), word.end(), noun, noun not in response.hallucinated))
    return found

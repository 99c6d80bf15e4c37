"""AMBER, discriminative part: yes/no questions about existence, attributes and relations; the AMBER score.

Official code: github.com/junyangwang0410/AMBER (inference.py at 5e1fd52), Wang et al. 2023. Positive: no.
Example: "Is the sky gloomy in this image?" -- "No"; precision asks how many of the "No" were right.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.statistics import Ratio, ratio
from benchmarks.tasks.amber import COUNTER_START
from benchmarks.tasks.pope import Answer, by_id, lenient
from benchmarks.usage import nearest

TYPES: Mapping[str, str] = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",  # under this name the annotations file the relations that do not hold
}
"""Type of an annotation -> the finest dimension it belongs to."""

ATTRIBUTES = ("state", "number", "action")

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "all": ("existence", *ATTRIBUTES, "relation"),
    "existence": ("existence",),
    "attribute": ATTRIBUTES,
    **{name: (name,) for name in ATTRIBUTES},
    "relation": ("relation",),
}
"""Dimension -> the finest dimensions it pools, in the order in which the official script prints them."""

F1_START: Mapping[str, float] = {name: 0.001 if name == "existence" else 0.0001 for name in DIMENSIONS}
"""What the official script adds to the denominator of F1, in fractions, not percent."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its image, its text, its right answer (yes or no), and its official type."""

    image: str
    text: str
    truth: str
    kind: str


def official(text: str) -> str | None:
    """The official reading: exactly ``Yes`` or ``No``; None, and so wrong, for all else, even ``No.``"""
    return {"Yes": "yes", "No": "no"}.get(text)


PARSERS = {"official": official, "lenient": lenient}


@dataclass(frozen=True, slots=True)
class Discriminative:
    """Answers of every dimension; each one's ``group`` is its finest dimension."""

    answers: tuple[Answer, ...]

    def dimensions(self) -> list[str]:
        """The dimensions that were asked about; ``all`` only if existence, attributes and relations were."""
        asked = {answer.group for answer in self.answers}
        whole = {"existence", "relation"} <= asked and not asked.isdisjoint(ATTRIBUTES)
        return [
            name
            for name, parts in DIMENSIONS.items()
            if not asked.isdisjoint(parts) and (name != "all" or whole)
        ]

    def figures(self, images: Sequence[str] | None = None) -> dict[str, Ratio]:
        """accuracy, precision, recall, F1 (positive: no), no (ratio), unparsed; percent, unrounded.

        Over all questions under these names, of a dimension as ``F1_existence``. One entry an image, in the
        order of ``images``, or in the one in which the answers first name them.

        Raises: ValueError when ``images`` leaves some out.
        """
        seen = dict.fromkeys(answer.image for answer in self.answers)
        sums = {image: Counter[str]() for image in (seen if images is None else images)}
        if left := [image for image in seen if image not in sums]:
            raise ValueError(f"expected an order of all images; {len(left)} are not in it, first {left[:5]}")
        for answer in self.answers:
            sums[answer.image].update(f"{what} {answer.group}" for what in _marks(answer))
        return {
            what if dimension == "all" else f"{what}_{dimension}": figure
            for dimension in self.dimensions()
            for what, figure in self._figures(list(sums.values()), DIMENSIONS[dimension]).items()
        }

    def _figures(self, sums: Sequence[Counter[str]], parts: Sequence[str]) -> dict[str, Ratio]:
        asked, right, no, said, hit, unparsed = (
            [sum(count[f"{mark} {part}"] for part in parts) for count in sums] for mark in MARKS
        )
        return {
            "accuracy": ratio(right, asked, outcomes=[a.right for a in self.answers if a.group in parts]),
            "precision": ratio(hit, said),
            "recall": ratio(hit, no),
            "F1": ratio([2 * n for n in hit], [n + s for n, s in zip(no, said, strict=True)]),
            "no": ratio(said, asked),
            "unparsed": ratio(unparsed, asked),
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """Dimension -> asked, right, no (right answer is no), said (No), hit (both), unparsed."""
        sums = Counter(f"{what} {answer.group}" for answer in self.answers for what in _marks(answer))
        return {
            dimension: {what: sum(sums[f"{what} {part}"] for part in DIMENSIONS[dimension]) for what in MARKS}
            for dimension in self.dimensions()
        }

    def official(self) -> dict[str, dict[str, float]]:
        """Dimension -> accuracy, precision, recall, F1 as the official script prints them, percent.

        Every counter that is pooled brings its own start, F1 is made of rounded figures, and it starts
        elsewhere for existence.
        """
        printed = {}
        for dimension, count in self.counts().items():
            start = COUNTER_START * (3 if dimension == "attribute" else 1)  # three counters are added up
            accuracy, precision, recall = (
                round(count[part] / (count[whole] + start) * 100, 1)
                for part, whole in (("right", "asked"), ("hit", "said"), ("hit", "no"))
            )
            p, r = precision / 100, recall / 100
            f1 = round(2 * p * r / (p + r + F1_START[dimension]) * 100, 1)
            printed[dimension] = {"accuracy": accuracy, "precision": precision, "recall": recall, "F1": f1}
        return printed


MARKS = ("asked", "right", "no", "said", "hit", "unparsed")


def _marks(answer: Answer) -> list[str]:
    """Which of the counters one answer adds to."""
    no, said = answer.label == "no", answer.parsed == "no"
    holds = (True, answer.right, no, said, no and said, answer.unparsed)
    return [mark for mark, held in zip(MARKS, holds, strict=True) if held]


def score(
    answers: Iterable[tuple[object, str]], questions: Mapping[str, Question], *, parser: str = "official"
) -> Discriminative:
    """Reads and counts one answer to each question.

    Args:
        answers: (id, text) pairs, one to each of ``questions``, in any order.
        questions: id -> question; pass a part of them to score that part.
        parser: ``official`` (exactly Yes or No) or ``lenient`` (the first standalone yes or no, a documented
            deviation); results must name it.

    Raises: ValueError on no questions, on an unknown parser, on unknown types, on truths that are neither yes
        nor no, and on duplicate, missing or unknown ids.
    """
    if parser not in PARSERS:
        raise ValueError(f"unknown parser {parser!r}: {nearest(parser, PARSERS)}")
    if not questions:
        raise ValueError("expected at least one question, got none")
    labels = [key for key, question in questions.items() if question.truth not in ("yes", "no")]
    if labels:
        raise ValueError(f"expected truths yes and no; {len(labels)} ids have others, first {labels[:5]}")
    kinds = sorted({question.kind for question in questions.values()} - TYPES.keys())
    if kinds:
        raise ValueError(f"unknown types {kinds[:5]}: there are {', '.join(TYPES)}")
    read = PARSERS[parser]
    given = by_id(answers, questions)
    return Discriminative(
        tuple(Answer(q.image, q.truth, read(given[key]), TYPES[q.kind]) for key, q in questions.items())
    )


def amber_score(chair: float, f1: float) -> float:
    """The AMBER score, ``(100 - CHAIR + F1) / 2``, percent, to 0.01; both in percent, F1 over all questions.

    The official script does not print it; the paper (Wang et al. 2023) makes it of the printed figures.
    """
    return round((100 - chair + f1) / 2, 2)

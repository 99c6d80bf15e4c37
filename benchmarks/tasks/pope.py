"""POPE: balanced yes/no questions about objects; and what every set of yes/no answers shares.

Official code: github.com/AoiDragon/POPE (evaluate.py at f3ec604), Li et al. 2023. Positive class: yes.
Example: "Is there a snowboard in the image?" -- "Yes".
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.statistics import Ratio, ratio


@dataclass(frozen=True, slots=True)
class Answer:
    """One question: the image it is about, its right answer, and what was understood (None: neither).

    ``group`` is any division of the questions whose accuracy is wanted by itself; ``vague`` says that no word
    of the answer decides it, and ``parsed``, if it is there, is only what the reading falls back to.
    """

    image: str
    label: str
    parsed: str | None
    group: str | None = None
    vague: bool = False

    @property
    def right(self) -> bool:
        return self.parsed == self.label

    @property
    def unparsed(self) -> bool:
        return self.parsed is None or self.vague


def official(text: str) -> str:
    """The official reading: "no" if No, no or not is a word before the first full stop, else "yes".

    So ``NO``, ``Nope``, ``No!`` and the empty answer count as yes.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def lenient(text: str) -> str | None:
    """The first standalone yes or no, whatever its case; None when there is neither."""
    found = re.search(r"\b(yes|no)\b", text.lower())
    return found[1] if found else None


def by_id(answers: Iterable[tuple[object, str]], expected: Collection[str]) -> dict[str, str]:
    """(id, answer) pairs as id -> answer, in the order of ``expected``; ids are compared as text.

    Raises: ValueError that names the first five duplicate, unknown and missing ids, and those of answers that
        are no text; the official scripts miscount all of these in silence.
    """
    pairs, known = [(str(key), text) for key, text in answers], set(expected)
    times = Counter(key for key, _ in pairs)
    wrong = {
        "duplicate ids": [key for key, count in times.items() if count > 1],
        "unknown ids": [key for key in times if key not in known],
        "ids without an answer": [key for key in expected if key not in times],
        "ids whose answer is no text": [key for key, text in pairs if not isinstance(text, str)],
    }
    found = [f"{len(ids)} {kind}, the first of them {ids[:5]}" for kind, ids in wrong.items() if ids]
    if found:
        raise ValueError(f"expected one answer to each of {len(expected)} ids; got {'; '.join(found)}")
    given = dict(pairs)
    return {key: given[key] for key in expected}


PARSERS: Mapping[str, Callable[[str], str | None]] = {"official": official, "lenient": lenient}


@dataclass(frozen=True, slots=True)
class YesNo:
    """Answers to yes/no questions; figures count questions and are resampled by image."""

    answers: tuple[Answer, ...]

    @property
    def unparsed(self) -> int:
        """Answers that are neither yes nor no; ``official`` reads them as yes, ``lenient`` as wrong."""
        return sum(answer.unparsed for answer in self.answers)

    def counts(self) -> dict[str, int]:
        """Questions, and TP, FP, TN, FN among those that were read as yes or no; unparsed answers."""
        seen = Counter((answer.parsed, answer.right) for answer in self.answers)
        return {
            "questions": len(self.answers),
            "TP": seen["yes", True],
            "FP": seen["yes", False],
            "TN": seen["no", True],
            "FN": seen["no", False],
            "unparsed": self.unparsed,
        }

    def official(self) -> dict[str, float]:
        """The five fractions as the official script prints them, unrounded; NaN where it divides by zero.

        Answers that ``lenient`` cannot read miss in recall, which the script, reading all, does not know.
        """
        figures = self.figures()
        return {name: figures[name].value / 100 for name in ("accuracy", "precision", "recall", "F1", "yes")}

    def figures(self) -> dict[str, Ratio]:
        """accuracy, precision, recall, F1 (positive: yes), yes (ratio), unparsed, accuracy_GROUP; percent."""
        counts: dict[str, Counter[str]] = {}
        for answer in self.answers:
            count = counts.setdefault(answer.image, Counter())
            count["asked"] += 1
            count["right"] += answer.right
            count["positive"] += answer.label == "yes"
            count["said yes"] += answer.parsed == "yes"
            count["hit"] += answer.label == answer.parsed == "yes"
            count["unparsed"] += answer.unparsed
            count[f"asked {answer.group}"] += 1
            count[f"right {answer.group}"] += answer.right

        def column(name: str) -> list[int]:
            return [count[name] for count in counts.values()]

        relevant = [p + s for p, s in zip(column("positive"), column("said yes"), strict=True)]
        groups = dict.fromkeys(answer.group for answer in self.answers if answer.group is not None)
        return {
            "accuracy": ratio(column("right"), column("asked"), outcomes=[a.right for a in self.answers]),
            "precision": ratio(column("hit"), column("said yes")),
            "recall": ratio(column("hit"), column("positive")),
            "F1": ratio([2 * hit for hit in column("hit")], relevant),
            "yes": ratio(column("said yes"), column("asked")),
            "unparsed": ratio(column("unparsed"), column("asked")),
            **{
                f"accuracy_{group}": ratio(
                    column(f"right {group}"),
                    column(f"asked {group}"),
                    outcomes=[answer.right for answer in self.answers if answer.group == group],
                )
                for group in groups
            },
        }


def score(
    questions: Sequence[tuple[str, str, str]],
    *,
    parser: str = "official",
    groups: Sequence[str] | None = None,
) -> YesNo:
    """Reads and counts the answers.

    Args:
        questions: (image id, right answer "yes" or "no", answer as it was given) of each question.
        parser: ``official`` or ``lenient``; it moves accuracy by tens of points on verbose answers, so
            results must name it.

    Raises: ValueError on no questions, on an unknown parser, on labels that are neither yes nor no.
    """
    if parser not in PARSERS:
        raise ValueError(f"expected parser to be one of {', '.join(PARSERS)}; got {parser!r}")
    if not questions:
        raise ValueError("expected at least one answer, got none")
    labels = sorted({label for _, label, _ in questions} - {"yes", "no"})
    if labels:
        raise ValueError(f"expected labels yes and no, got {labels[:5]}")
    read = PARSERS[parser]
    divided = zip(questions, [None] * len(questions) if groups is None else groups, strict=True)
    return YesNo(
        tuple(
            Answer(image, label, read(text), group, vague=not re.search(r"\b(yes|no|not)\b", text.lower()))
            for (image, label, text), group in divided
        )
    )

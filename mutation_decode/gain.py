"""What a candidate gains over greedy decoding on the same images, and whether anything is paid for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .resampling import Interval, draws, interval, ratio
from .words import Answer

FIGURES = {
    "CHAIR_i": ("invented", "named", 100.0),
    "CHAIR_s": ("with invented", "answers", 100.0),
    "recall": ("covered", "there", 100.0),
    "length": ("words", "answers", 1.0),
    "objects": ("named", "answers", 1.0),
    "fired": ("fired", "tokens", 100.0),
}
"""Figure -> what is divided by what, over all images, and its scale: percent, or an average of an answer."""
MOST_FIRED = 50.0
"""Percent of the tokens: what acts on more is no remedy for some of them."""

Outcome = dict[str, np.ndarray]
"""What is counted, each `[images]`."""


def counted(answers: Sequence[Answer], fired: Sequence[int]) -> Outcome:
    """Counts of every image's answer; `fired` says at how many of its tokens the detector fired."""
    rows = [
        {
            "invented": len(answer.named) - sum(answer.right),
            "with invented": not all(answer.right),
            "named": len(answer.named),
            "covered": len(answer.truth.intersection(answer.named)),
            "there": len(answer.truth),
            "words": len(answer.text.split()),
            "answers": 1,
            "fired": count,
            "tokens": answer.tokens,
        }
        for answer, count in zip(answers, fired, strict=True)
    ]
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


@dataclass(frozen=True, slots=True)
class Gain:
    """A candidate's figures, their differences to greedy's, paired by image, and what speaks against it."""

    figures: dict[str, Interval]
    differences: dict[str, Interval]
    against: tuple[str, ...]


class Measured:
    """Greedy's figures on some images, and what others have to keep to.

    Attributes:
        figures: name -> greedy's, with its interval.
    """

    def __init__(self, greedy: Outcome, *, seed: int = 0) -> None:
        self._drawn = draws(len(greedy["answers"]), seed=seed)
        self._values = self._of(greedy)
        self.figures = {name: interval(values) for name, values in self._values.items()}

    def gain(self, outcome: Outcome) -> Gain:
        """Holds a candidate against greedy: the rule by which it qualifies is `AGAINST`."""
        values = self._of(outcome)
        figures = {name: interval(found) for name, found in values.items()}
        paired = {name: interval(values[name] - self._values[name]) for name in FIGURES if name != "fired"}
        against = tuple(said for said, broken in AGAINST.items() if broken(figures, self.figures))
        return Gain(figures, paired, against)

    def _of(self, outcome: Outcome) -> dict[str, np.ndarray]:
        return {
            name: scale * ratio(outcome[above], outcome[below], self._drawn)
            for name, (above, below, scale) in FIGURES.items()
        }


Figures = dict[str, Interval]


def _outside(name: str) -> Callable[[Figures, Figures], bool]:
    return lambda it, greedy: not greedy[name].low <= it[name].value <= greedy[name].high


AGAINST: dict[str, Callable[[Figures, Figures], bool]] = {
    "CHAIR_i not below greedy's": lambda it, greedy: not it["CHAIR_i"].value < greedy["CHAIR_i"].value,
    "recall below greedy's": lambda it, greedy: not it["recall"].value >= greedy["recall"].value,
    "length outside greedy's interval": _outside("length"),
    "objects outside greedy's interval": _outside("objects"),
    f"acts on {MOST_FIRED:g} % of the tokens or more": lambda it, _: not it["fired"].value < MOST_FIRED,
}

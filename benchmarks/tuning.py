"""Chooses a method's knobs on validation captions: fewer hallucinations, and nothing paid for them.

A candidate qualifies if its CHAIR_i is below greedy's, its recall is no lower, its length and number of
objects stay within greedy's intervals, and, if a detector gates it, it acts on less than a given percent of
the tokens. Of those the one of the lowest CHAIR_i is chosen (the first of equals). Where none qualifies, the
method keeps its own knobs, and the table shows what they do; a calibrated one is then plain decoding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.statistics import Interval

RULE = (
    "lowest CHAIR_i among the candidates with CHAIR_i below greedy's, recall no lower than greedy's, length "
    "and objects within greedy's intervals and, if a detector gates them, fewer than tuning.below percent of "
    "the tokens fired; where none qualifies, the method keeps its own knobs, and a calibrated one is plain "
    "decoding"
)
JUDGED = ("CHAIR_i", "recall", "length", "objects", "fired")


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate: its knobs, its figures on validation captions, and what speaks against it."""

    knobs: Mapping[str, Any]
    figures: Mapping[str, float]
    against: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The knobs to use (empty: the method's own), why, and every trial."""

    knobs: Mapping[str, Any]
    note: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """One model's tuning: greedy's figures on the validation captions, and the choice for each method."""

    greedy: Mapping[str, Interval]
    methods: Mapping[str, Choice]


def judge(
    knobs: Mapping[str, Any],
    figures: Mapping[str, float],
    greedy: Mapping[str, Interval],
    *,
    below: float | None,
) -> Trial:
    """Holds one candidate against greedy; ``below`` is the percent of fired tokens allowed, None for any."""
    against = []
    if not figures["CHAIR_i"] < greedy["CHAIR_i"].value:
        against.append("CHAIR_i not below greedy's")
    if not figures["recall"] >= greedy["recall"].value:
        against.append("recall below greedy's")
    for name in ("length", "objects"):
        if not greedy[name].low <= figures[name] <= greedy[name].high:
            against.append(f"{name} outside greedy's interval")
    if below is not None and not figures["fired"] < below:
        against.append(f"acts on {below:g} % of the tokens or more")
    return Trial(knobs, {name: figures[name] for name in JUDGED}, tuple(against))


def choose(trials: Sequence[Trial], otherwise: str = "the method keeps its own knobs") -> Choice:
    """The qualifying trial of the lowest CHAIR_i, or no knobs, the reason why, and what is done instead."""
    good = [trial for trial in trials if not trial.against]
    if not good:
        reasons = [reason for trial in trials for reason in trial.against]
        counted = ", ".join(f"{reason}: {reasons.count(reason)}" for reason in dict.fromkeys(reasons))
        note = f"none of {len(trials)} candidates qualifies ({counted}); {otherwise}"
        return Choice({}, note, tuple(trials))
    best = min(good, key=lambda trial: trial.figures["CHAIR_i"])
    note = f"lowest CHAIR_i of the {len(good)} of {len(trials)} candidates that qualify"
    return Choice(best.knobs, note, tuple(trials))

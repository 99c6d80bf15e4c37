"""The pictures of a report: hallucination against recall, of the methods and of what was tried for them."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from benchmarks import frontier
from benchmarks.comparable import Row, groups
from benchmarks.evidence.pictures import frontiers
from benchmarks.tuning import Tuned

AXES = (("CHAIR_i", "recall"), ("CHAIR", "Cover"))
"""What CHAIR and AMBER call the share of mentions that are hallucinated, and of objects that are named."""


def methods(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    """A sentence and a PNG for each pair of AXES that tasks have on which there are methods to compare."""
    names = ("model", "method", "task", "n", "figures", "stands_for")
    tables = groups([Row("", *(row[name] for name in names)) for row in rows])
    tables = [table for table in tables if len({row.method for row in table.rows}) > 1]
    found = list[tuple[str, bytes]]()
    for figure, against in AXES:
        file = BytesIO()
        if frontier.draw(tables, figure, against, file):
            told = (
                f"{figure} against {against}, percent, for each model and task: a point a method with its "
                f"intervals, greedy as a star; the best are at the lower right, the dashed line joins those "
                f"that none beats in both. Points that lie on one another hide each other."
            )
            found.append((told, file.getvalue()))
    return found


def tried(tuned: Mapping[str, Tuned]) -> tuple[str, bytes] | None:
    """The same for every setting that was tried on validation images; None where nothing was tuned."""
    greedy, trials = dict[str, tuple[float, float]](), dict[str, dict[str, list[tuple[float, float]]]]()
    for model, found in tuned.items():
        points = {
            method: [
                point
                for trial in choice.trials
                if all(map(math.isfinite, point := (trial.figures["recall"], trial.figures["CHAIR_i"])))
            ]
            for method, choice in found.methods.items()
        }
        points = {method: own for method, own in points.items() if own}
        plain = {name: found.greedy[name].value for name in found.greedy}
        at = (plain.get("recall", math.nan), plain.get("CHAIR_i", math.nan))
        if points and all(map(math.isfinite, at)):
            trials[model], greedy[model] = points, at
    if not trials:
        return None
    file = BytesIO()
    frontiers(trials, greedy, file)
    told = (
        "CHAIR_i against recall, percent, of every setting that was tried on the validation images; settings "
        "that are far worse than greedy lie outside."
    )
    return told, file.getvalue()

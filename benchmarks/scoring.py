"""From lines of predictions to rows of figures, each with its interval and its difference to greedy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.answered import Line
from benchmarks.plan import Job
from benchmarks.significance import mcnemar
from benchmarks.statistics import Interval, intervals
from benchmarks.tasks import figures
from benchmarks.usage import UsageError

GREEDY = "greedy"
"""The method that every other one is compared with."""


def readable(lines: Sequence[Line]) -> list[Line]:
    """The lines that hold an answer. Raises: UsageError when none does."""
    found = [line for line in lines if "error" not in line]
    if not found:
        raise UsageError(f"none of {len(lines)} images could be read; the first: {lines[0]['error']}")
    return found


def compare(
    model: str, job: Job, answers: Mapping[str, Sequence[Line]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row of scores.json a method; differences only where greedy was run too.

    An image that one method could not read is left out of the figures of all, which so stand for the same.

    Args:
        answers: method -> its lines.
        settings: resamples, level and seed of the bootstrap.
    """
    lost = {line["image_id"] for lines in answers.values() for line in lines if "error" in line}
    kept = {
        method: [line for line in lines if line["image_id"] not in lost] for method, lines in answers.items()
    }
    found = {method: figures(job.task, readable(lines)) for method, lines in kept.items()}
    others = {method: own for method, own in found.items() if method != GREEDY}
    tests = mcnemar(others, found[GREEDY]) if GREEDY in found else {}
    rows = []
    for method, own in found.items():
        values, differences = intervals(own, found.get(GREEDY), **settings)
        rows.append(
            {
                "model": model,
                "method": method,
                "task": job.name,
                "n": len({line["image_id"] for line in kept[method]}),
                "figures": {
                    name: {**_plain(value), "difference": _plain(differences[name]) if differences else None}
                    for name, value in values.items()
                },
                "mcnemar": {name: asdict(test) for name, test in tests.get(method, {}).items()},
            }
        )
    return rows


def _plain(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN: a figure that divides by 0 is null."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}

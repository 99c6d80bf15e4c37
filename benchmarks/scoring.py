"""From lines of predictions to rows of figures, each with its interval and its difference to greedy."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.answered import Line
from benchmarks.plan import Job
from benchmarks.problems import Problems
from benchmarks.sentences import whole
from benchmarks.significance import mcnemar
from benchmarks.statistics import Interval, intervals
from benchmarks.tasks import figures

GREEDY = "greedy"
"""The method that every other one is compared with."""


def common(answers: Mapping[str, Sequence[Line]]) -> dict[str, list[Line]]:
    """Of each method that has any answer the lines of the items to which all of these have one."""
    some = {method: lines for method, lines in answers.items() if any("error" not in line for line in lines)}
    lost = {_item(line) for lines in some.values() for line in lines if "error" in line}
    return {method: [line for line in lines if _item(line) not in lost] for method, lines in some.items()}


def scored(lines: Sequence[Line], answer: str, unfinished: str) -> list[Line]:
    """The lines as they are scored: of an answer that was cut off its whole sentences, if ``unfinished`` is
    drop."""
    if unfinished == "keep":
        return list(lines)
    return [{**line, answer: whole(line[answer])} if line["truncated"] else line for line in lines]


def compare(
    model: str,
    job: Job,
    answers: Mapping[str, Sequence[Line]],
    stands_for: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    problems: Problems,
) -> list[dict[str, Any]]:
    """One row of scores.json a method; differences only where greedy was run too.

    An item that one method has no answer to is left out of the figures of all, which so stand for the same;
    a method that has no answer at all has no row.

    Args:
        answers: method -> its lines, in the order of the items.
        stands_for: method -> what its row is to say of itself.
        config: the run's, with ``bootstrap`` (resamples, level and seed) and ``unfinished``.
        problems: told of rows that are left out.
    """
    kept = common(answers)
    for method, lines in answers.items():
        if method not in kept:
            problems.leave_out(model, method, job.name, f"no answer; the first error: {lines[0]['error']}")
        elif not kept[method]:
            problems.leave_out(model, method, job.name, "no item has an answer under every method")
    kept = {
        method: scored(lines, job.task.answer, config["unfinished"])
        for method, lines in kept.items()
        if lines
    }
    if not kept:
        return []
    images = hashlib.sha256(json.dumps([_item(line) for line in next(iter(kept.values()))]).encode())
    found = {method: figures(job.task, lines) for method, lines in kept.items()}
    others = {method: own for method, own in found.items() if method != GREEDY}
    tests = mcnemar(others, found[GREEDY]) if GREEDY in found else {}
    rows = []
    for method, own in found.items():
        values, differences = intervals(own, found.get(GREEDY), **config["bootstrap"])
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
                "stands_for": {**stands_for[method], "images": f"sha256:{images.hexdigest()}"},
                "mcnemar": {name: asdict(test) for name, test in tests.get(method, {}).items()},
            }
        )
    return rows


def _item(line: Line) -> str:
    """What tells an item from every other one of its task."""
    return str(next(iter(line.values())))


def _plain(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN: a figure that divides by 0 is null."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}

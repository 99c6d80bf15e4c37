"""The rows of scores.json and cost.json as tables for a page: texts, and what a difference means."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.report import ABREAST, DIGITS, excludes_0
from benchmarks.scoring import GREEDY

LESS_IS_BETTER = ("CHAIR", "CHAIR_s", "CHAIR_i", "Hal", "Cog", "truncated", "unparsed")
MORE_IS_BETTER = ("recall", "Cover", "accuracy", "precision", "F1")


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of one method: its value and interval, and the same of its difference to greedy.

    ``verdict`` is better, worse or differs where the interval of the difference excludes 0, else empty.
    """

    value: str
    interval: str
    difference: str
    verdict: str


def tables(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each model and task a line a figure, a column a method, in blocks that a screen has room for."""
    return [
        {
            "model": model,
            "task": task,
            "n": columns[0]["n"],
            "blocks": [
                {
                    "methods": [row["method"] for row in block],
                    "lines": [
                        (name, [cell(name, row["figures"][name]) for row in block])
                        for name in columns[0]["figures"]
                    ],
                }
                for block in _blocks(columns)
            ],
        }
        for (model, task), group in groupby(rows, key=lambda row: (row["model"], row["task"]))
        for columns in [list(group)]
    ]


def _blocks(columns: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """ABREAST columns at a time, each time beside greedy's."""
    plain = [row for row in columns if row["method"] == GREEDY]
    others = [row for row in columns if row["method"] != GREEDY]
    for start in range(0, max(1, len(others)), ABREAST):
        yield [*plain, *others[start : start + ABREAST]]


def cell(name: str, figure: Mapping[str, Any]) -> Cell:
    digits, difference = DIGITS.get(name, 1), figure["difference"]
    value = "undefined" if figure["value"] is None else f"{figure['value']:.{digits}f}"
    interval = _range(figure, f".{digits}f")
    if difference is None or difference["value"] is None or set(difference.values()) == {0}:
        return Cell(value, interval, "", "")
    apart = f"{difference['value']:+.{digits}f} {_range(difference, f'+.{digits}f')}".strip()
    return Cell(value, interval, apart, verdict(name, difference))


def verdict(name: str, difference: Mapping[str, Any]) -> str:
    """Of a figure and of that of a group of questions, as in accuracy_existence."""
    if not excludes_0(difference):
        return ""
    kind = name if name in LESS_IS_BETTER else name.partition("_")[0]
    if kind in LESS_IS_BETTER or kind in MORE_IS_BETTER:
        return "better" if (difference["value"] < 0) == (kind in LESS_IS_BETTER) else "worse"
    return "differs"


def tests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each exact test."""
    return [
        {"model": row["model"], "task": row["task"], "method": row["method"], "figure": figure}
        | {"only_this": test["only_this"], "only_reference": test["only_reference"]}
        | {"p": f"{test['p']:.2g}", "holm": f"{test['holm']:.2g}"}
        for row in rows
        for figure, test in row["mcnemar"].items()
    ]


def relative(costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What answers took, with the speed as a share of greedy's where that was run too."""
    plain = {
        (row["model"], row["task"]): row["tokens_per_second"] for row in costs if row["method"] == GREEDY
    }
    return [
        {**row, "share": row["tokens_per_second"] / speed if speed else None}
        for row in costs
        for speed in [plain.get((row["model"], row["task"]))]
    ]


def _range(interval: Mapping[str, Any], style: str) -> str:
    if interval["low"] is None or interval["high"] is None:
        return ""
    return f"[{interval['low']:{style}}, {interval['high']:{style}}]"

"""Rows of figures as tables, for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate

from benchmarks.problems import Problems
from benchmarks.tuning import Tuned

LEGEND = (
    "Figures in percent; length in words, objects in mentions a caption. Brackets: bootstrap interval over "
    "images (95 % unless bootstrap.level says otherwise). A method's value is followed by its difference to "
    "greedy on the same images; * marks an interval of the difference that excludes 0."
)

MCNEMAR = (
    "For each method: captions or answers of which the figure holds under it and not under greedy, and the "
    "other way round; two-sided exact p, corrected by Holm over the methods."
)

ABREAST = 4
"""Methods side by side in one table."""

NAMED = 20
"""Items without an answer that a table names."""

DIGITS = {"length": 2, "objects": 2}
"""Decimals of the figures that are no percentages."""


def document(
    rows: Sequence[Mapping[str, Any]],
    tuned: Mapping[str, Tuned],
    problems: Problems,
) -> str:
    """The run's table.md."""
    parts = ["# Figures", LEGEND, *_tables(rows, "github", "## {}"), *_tests(rows), "## Knobs", _knobs(tuned)]
    return "\n\n".join([*parts, *_problems(problems)]) + "\n"


def terminal(
    rows: Sequence[Mapping[str, Any]],
    tuned: Mapping[str, Tuned],
    problems: Problems,
    costs: Sequence[Mapping[str, Any]],
) -> str:
    """The same for a terminal, and what it took, which differs from run to run."""
    parts = ["", *_tables(rows, "simple", "{}"), LEGEND, _knobs(tuned), *_problems(problems), *_costs(costs)]
    return "\n\n".join(parts)


def _tables(rows: Sequence[Mapping[str, Any]], style: str, heading: str) -> list[str]:
    """For each model and task a line a figure, a column a method; as many tables as that makes readable."""
    parts = []
    for (model, task), group in groupby(rows, key=lambda row: (row["model"], row["task"])):
        all_columns = list(group)
        parts.append(heading.format(f"{model}, {task}, n = {all_columns[0]['n']} images"))
        for columns in (all_columns[i : i + ABREAST] for i in range(0, len(all_columns), ABREAST)):
            lines = [
                [name, *(cell(row["figures"][name], DIGITS.get(name, 1)) for row in columns)]
                for name in columns[0]["figures"]
            ]
            headers = ["", *(row["method"] for row in columns)]
            parts.append(tabulate(lines, headers, tablefmt=style, disable_numparse=True))
    return parts


def cell(figure: Mapping[str, Any], digits: int = 1) -> str:
    """``14.2 [12.0, 16.4]``, with a difference ``14.2  -3.1 [-4.6, -1.5]*``, less what is undefined."""
    difference = figure["difference"]
    text = "undefined" if figure["value"] is None else f"{figure['value']:.{digits}f}"
    if difference is None or set(difference.values()) == {0}:
        return text + _range(figure, f".{digits}f")
    if difference["value"] is None:
        return text
    star = "*" if excludes_0(difference) else ""
    return f"{text}  {difference['value']:+.{digits}f}{_range(difference, f'+.{digits}f')}{star}"


def excludes_0(interval: Mapping[str, Any]) -> bool:
    """Whether an interval, if there is one, lies on one side of 0."""
    return interval["low"] is not None and (interval["low"] > 0 or interval["high"] < 0)


def _range(interval: Mapping[str, Any], style: str) -> str:
    if interval["low"] is None or interval["high"] is None:
        return ""
    return f" [{interval['low']:{style}}, {interval['high']:{style}}]"


def _tests(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each model, task and figure that is right or wrong of each caption or answer."""
    lines = []
    for (model, task), group in groupby(rows, key=lambda row: (row["model"], row["task"])):
        found: dict[str, list[str]] = {}
        for row in group:
            for figure, test in row["mcnemar"].items():
                told = f"{row['method']} {test['only_this']}:{test['only_reference']}, p {test['holm']:.2g}"
                found.setdefault(figure, []).append(told)
        lines += [f"- {model}, {task}, {figure}: {'; '.join(tests)}" for figure, tests in found.items()]
    return ["## Exact McNemar tests", MCNEMAR, "\n".join(lines)] if lines else []


def _knobs(tuned: Mapping[str, Tuned]) -> str:
    lines = [
        f"- {model}, {method}: {spelled(choice.knobs) or 'as in its YAML'}; {choice.note}"
        for model, found in tuned.items()
        for method, choice in found.methods.items()
    ]
    return "\n".join(lines) or "Knobs as in the YAML of each method; nothing was tuned."


def spelled(knobs: Mapping[str, Any], prefix: str = "") -> str:
    """``alpha=0.5, detector.threshold=0.05``."""
    return ", ".join(
        spelled(value, f"{prefix}{key}.") if isinstance(value, Mapping) else f"{prefix}{key}={value}"
        for key, value in knobs.items()
    )


def _problems(problems: Problems) -> list[str]:
    told, errors, converted = [], problems.errors(), problems.converted()
    if problems.left_out():
        told.append("Left out:\n\n" + "\n".join(f"- {line}" for line in problems.left_out()))
    if errors:
        named = [f"- {task}, {item}: {reason}" for task, item, reason in errors[:NAMED]]
        named += [f"- and {len(errors) - NAMED} more, in problems.json"] if len(errors) > NAMED else []
        told.append(f"{len(errors)} items could not be answered and are in no figure:\n\n" + "\n".join(named))
    if converted:
        modes = ", ".join(f"{mode}: {count}" for mode, count in converted.items())
        told.append(f"{sum(converted.values())} images were converted to RGB (from {modes}).")
    return told


def _costs(costs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What answers took, a line for each model, task and method, as far as it is known."""
    headers = ["", "first token, s", "tokens/s, a process", "peak memory, GiB", "batches halved"]
    lines = [
        [
            f"{row['model']}, {row['task']}, {row['method']}",
            f"{row['first_token_seconds']:.3f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['peak_gib']:.2f}",
            str(row["halved"]),
        ]
        for row in costs
    ]
    return [tabulate(lines, headers, disable_numparse=True)] if lines else []

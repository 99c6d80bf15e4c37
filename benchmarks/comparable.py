"""Rows of figures from many runs: which of them may stand side by side, and what tells these apart.

A row is one method's figures on one task. Rows are comparable when they stand for the same weights, settings
of the model, data, images, prompt, task settings and length limit; how the answers were decoded is compared.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.significance import over_seeds

FIRST = "greedy"
"""The method that a table begins with."""

LIMITS = ("max_new_tokens", "unfinished")
"""Settings of generation that figures depend on as on the task."""

PLACES = ("root", "images", "ground_truth", "questions", "list", "synonyms", "similarity_table", "file")
"""Keys of a task that say where its data lie, as do values with a slash; what is there, a checksum says."""

CHOSEN = ("n", "after", "seed")
"""Keys of a task that say how its images were chosen; which these are, the data's checksum says."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of scores.json, and the run folder it is from."""

    folder: str
    model: str
    method: str
    task: str
    n: int
    figures: Mapping[str, Mapping[str, Any]]
    stands_for: Mapping[str, Any]

    def terms(self) -> dict[str, Any]:
        """What must agree for another row to be comparable."""
        known = self.stands_for
        task = {key: value for key, value in leaves(known["task"]) if key not in (*PLACES, *CHOSEN)}
        return {
            **{key: known[key] for key in ("weights", "dtype", "data", "images", "pixels") if key in known},
            **{key: value for key, value in leaves(known.get("model", {}), "model") if key != "model.dtype"},
            "number of images": self.n,
            "prompt": known["prompt"],
            **{
                f"task.{key}": value
                for key, value in task.items()
                if not (isinstance(value, str) and "/" in value and " " not in value)
            },
            **{key: known["decoding"]["generation"].get(key) for key in LIMITS},
        }

    def chosen(self) -> dict[str, Any]:
        """How its images were chosen."""
        return {f"task.{key}": value for key, value in leaves(self.stands_for["task"]) if key in CHOSEN}

    def decoding(self) -> dict[str, Any]:
        """How the answers were decoded, flat; not the seed, nor what was tried when knobs were tuned."""
        decoding = self.stands_for["decoding"]
        method = {key: value for key, value in decoding["method"].items() if key != "tune"}
        generation = decoding["generation"]
        rest = {key: value for key, value in generation.items() if key not in (*LIMITS, "seed")}
        return {**dict(leaves(method)), **dict(leaves(rest, "generation"))}

    @property
    def seed(self) -> Any:
        return self.stands_for["decoding"]["generation"].get("seed")

    def values(self) -> dict[str, float | None]:
        return {name: figure["value"] for name, figure in self.figures.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """One decoding in a table: a method, the knobs that differ between its lines, and its figures.

    A figure has value, low, high and difference, or value, sd and difference (value, sd) over seeds.
    """

    method: str
    knobs: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row]
    note: str = ""

    @property
    def label(self) -> str:
        """``contrast (alpha=0.5; runs/b)``; the run only where nothing else tells two lines apart."""
        told = [", ".join(f"{key}={value}" for key, value in self.knobs.items()), self.note]
        inside = "; ".join(part for part in told if part)
        return f"{self.method} ({inside})" if inside else self.method


@dataclass(frozen=True, slots=True)
class Group:
    """Comparable rows, at least one."""

    rows: Sequence[Row]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task for row in self.rows))

    @property
    def name(self) -> str:
        return f"{' = '.join(self.models)}, {' = '.join(self.tasks)}, n = {self.rows[0].n} images"

    def chosen(self) -> dict[str, Any]:
        """How the images of all of its rows were chosen; empty where there were several ways."""
        ways = by(self.rows, Row.chosen)
        return ways[0][0].chosen() if len(ways) == 1 else {}

    def same_names(self, other: "Group") -> bool:
        """Whether a reader could take the two for one."""
        return bool({*self.models} & {*other.models} and {*self.tasks} & {*other.tasks})

    def differences(self, other: "Group") -> list[str]:
        """``prompt: 'a' there, 'b' here`` for all that keeps rows of the two apart."""
        here, there = self.rows[0].terms(), other.rows[0].terms()
        ways = self.chosen(), other.chosen()
        if here["data"] != there["data"] and all(ways):
            here, there = here | ways[0], there | ways[1]
        return [
            f"{key}: {brief(there.get(key, 'absent'))} there, {brief(here.get(key, 'absent'))} here"
            for key in dict.fromkeys([*there, *here])
            if there.get(key, "absent") != here.get(key, "absent")
        ]

    def codes(self) -> list[str]:
        """What differs in the code that made the rows; figures may differ by it."""
        made: dict[str, dict[str, list[str]]] = {}
        for row in self.rows:
            for part, version in row.stands_for["code"].items():
                made.setdefault(part, {}).setdefault(version, []).append(row.folder)
        return [
            f"{part}: "
            + "; ".join(f"{brief(version)} in {several(where)}" for version, where in found.items())
            for part, found in made.items()
            if len(found) > 1
        ]

    def lines(self) -> list[Line]:
        """One line a decoding: greedy first, then methods as they came, their knobs in order."""
        found: list[Line] = []
        for method in dict.fromkeys([FIRST, *(row.method for row in self.rows)]):
            rows = [row for row in self.rows if row.method == method]
            varied = _varied([row.decoding() for row in rows])
            lines = []
            for same in by(rows, Row.decoding):
                knobs = {key: same[0].decoding().get(key) for key in varied}
                lines += [Line(method, knobs, *line) for line in _figures(same)]
            found += sorted(lines, key=lambda line: [_sortable(value) for value in line.knobs.values()])
        labels = [line.label for line in found]
        return [
            replace(line, note=line.rows[0].folder) if labels.count(line.label) > 1 else line
            for line in found
        ]


def groups(rows: Sequence[Row]) -> list[Group]:
    """The rows by what must agree, in the order in which it first comes."""
    return [Group(of) for of in by(rows, Row.terms)]


def by(rows: Sequence[Row], of: Callable[[Row], Any]) -> list[list[Row]]:
    """The rows, those together that are alike in something."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(json.dumps(of(row), sort_keys=True), []).append(row)
    return list(found.values())


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``detector.threshold``, 0.05 and so on."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def several(names: Sequence[str]) -> str:
    """The first two of many names, and how many more."""
    known = list(dict.fromkeys(names))
    return ", ".join(known[:2]) + (f" and {len(known) - 2} more" if len(known) > 2 else "")


def brief(value: Any) -> str:
    """A value in a sentence: checksums and long texts cut, text quoted."""
    text = str(value)
    if text.startswith("sha256:") or (len(text) >= 40 and set(text) <= set("0123456789abcdef")):
        return text[:19]
    if isinstance(value, str) and " " in text:
        text = " ".join(text.split())
        return repr(text if len(text) <= 160 else f"{text[:157]}...")
    return text


def _varied(decodings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The knobs that are not the same in all of them."""
    keys = dict.fromkeys(key for decoding in decodings for key in decoding)
    return [key for key in keys if len({json.dumps(each.get(key, "absent")) for each in decodings}) > 1]


def _figures(
    rows: Sequence[Row],
) -> Iterator[tuple[Mapping[str, Mapping[str, Any]], Sequence[Row], str]]:
    """One decoding's figures, rows and note: once where they agree, over seeds, or each by itself."""
    agree = by(rows, Row.values)
    if len(agree) == 1:
        yield _compared(rows), rows, ""
        return
    for same in by(rows, lambda row: row.stands_for["code"]):
        seeds = by(same, lambda row: row.seed)
        if len(seeds) > 1 and all(len(by(of, Row.values)) == 1 for of in seeds):
            yield _over_seeds([_compared(of) for of in seeds]), same, f"mean and sd of {len(seeds)} seeds"
        else:
            yield from ((_compared(of), of, "") for of in by(same, Row.values))


def _compared(rows: Sequence[Row]) -> Mapping[str, Mapping[str, Any]]:
    """The figures of rows that agree, from a run that compared them with greedy if there is one."""
    return next((row for row in rows if any(f["difference"] for f in row.figures.values())), rows[0]).figures


def _over_seeds(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Mean and sd of each figure, and of its difference to greedy, where it is defined for every seed."""

    def spread(found: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
        defined = [{name: value for name, value in run.items() if value is not None} for run in found]
        return {name: {"value": mean, "sd": sd} for name, (mean, sd) in over_seeds(defined).items()}

    values = spread([{name: figure["value"] for name, figure in run.items()} for run in runs])
    differences = spread(
        [{name: (figure["difference"] or {}).get("value") for name, figure in run.items()} for run in runs]
    )
    undefined = {"value": None, "sd": None}
    return {name: {**values.get(name, undefined), "difference": differences.get(name)} for name in runs[0]}


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, value if number else 0.0, str(value)

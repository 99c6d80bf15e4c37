"""docs/evidence.md, written from the run folders: every figure on it is of a run that it names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.evidence.answers import Training
from benchmarks.evidence.trainings import pooled
from benchmarks.evidence.versus import OURS, Comparison
from benchmarks.statistics import Interval

GREEDY = "greedy"
CEILING = "skip-always"
LATE, CONTROL = "miniature-late-prior", "miniature-natural"


def span(interval: Interval, *, signed: bool = False, digits: int = 1) -> str:
    """``-3.1 [-4.6, -1.5]``, with a star where a difference's interval excludes 0."""
    sign = "+" if signed else ""
    star = "*" if signed and (interval.low > 0 or interval.high < 0) else ""
    ends = f"[{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]"
    return f"{interval.value:{sign}.{digits}f} {ends}{star}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def methods_table(trainings: Sequence[Training], model: str, methods: Sequence[str]) -> str:
    """A line a method: the mean over trainings and its difference to greedy, and CHAIR_i of each training."""
    plain = [training.figures(model, GREEDY) for training in trainings]
    rows = []
    for method in methods:
        own = [training.figures(model, method) for training in trainings]
        values, gaps = pooled(own, plain)
        cells = [f"{values['CHAIR_i'].value:.1f}", span(gaps["CHAIR_i"], signed=True)]
        cells += [" / ".join(f"{each['CHAIR_i'].value:.1f}" for each in own)]
        cells += [f"{values['recall'].value:.1f}", span(gaps["recall"], signed=True)]
        cells += [f"{values['CHAIR_s'].value:.1f}", f"{values['length'].value:.1f}"]
        cells += [f"{values['objects'].value:.2f}", f"{values['fired'].value:.1f}"]
        rows.append([method, *cells, _speed(trainings, model, method)])
    headers = ["", "CHAIR_i", "less greedy's", "each training", "recall", "less greedy's"]
    return table([*headers, "CHAIR_s", "words", "objects", "acted on, %", "tokens/s of greedy's"], rows)


def _speed(trainings: Sequence[Training], model: str, method: str) -> str:
    """Tokens a second as a share of greedy's in the same run, the median training's."""
    shares = sorted(
        training.costs[model, method]["tokens_per_second"]
        / training.costs[model, GREEDY]["tokens_per_second"]
        for training in trainings
    )
    return f"{shares[len(shares) // 2]:.2f}"


def peers_table(comparisons: Sequence[Comparison]) -> str:
    rows = [
        [
            each.model,
            each.peer,
            "/".join(dict.fromkeys(each.ours)),
            span(each.chair, signed=True),
            span(each.recall, signed=True),
            f"{each.holm:.2g}",
            f"**{each.verdict}**",
        ]
        for each in comparisons
    ]
    return table(
        ["model", "peer", "ours", "CHAIR_i less the peer's", "recall less the peer's", "p (Holm)", ""], rows
    )


def knobs_table(trainings: Sequence[Training], model: str, methods: Sequence[str]) -> str:
    rows = []
    for method in methods:
        for training in trainings:
            choice = training.tuning[model]["methods"].get(method)
            if choice is not None:
                rows.append([method, str(training.number), _spelled(choice["knobs"]) or "-", choice["note"]])
    return table(["", "training", "chosen", "why"], rows)


def _spelled(knobs: Mapping[str, Any], prefix: str = "") -> str:
    return ", ".join(
        _spelled(value, f"{prefix}{key}.") if isinstance(value, Mapping) else f"{prefix}{key}={value}"
        for key, value in knobs.items()
    )


def aims(trainings: Sequence[Training], models: Sequence[str]) -> str:
    """What was aimed at, training by training: reached or not, with the figures."""
    return table(
        ["model", "method", "training", "CHAIR_i less greedy's", "relative", "recall less greedy's",
         "length and objects in greedy's intervals", "acted on", "all met"],
        [list(row) for model in models for row in _aims(trainings, model)],
    )  # fmt: skip


def _aims(trainings: Sequence[Training], model: str) -> Iterator[tuple[str, ...]]:
    for method in (*OURS, *([CEILING] if model == LATE else [])):
        for training in trainings:
            plain, own = (training.figures(model, name) for name in (GREEDY, method))
            values, gaps = pooled([own], [plain])
            bounds, _ = pooled([plain])
            inside = all(
                bounds[name].low <= values[name].value <= bounds[name].high for name in ("length", "objects")
            )
            relative = gaps["CHAIR_i"].value / bounds["CHAIR_i"].value
            met = (
                gaps["CHAIR_i"].high < 0
                and gaps["recall"].value >= 0
                and inside
                and values["fired"].value < 50
            )
            yield (
                model,
                method,
                str(training.number),
                span(gaps["CHAIR_i"], signed=True),
                f"{100 * relative:+.0f} %",
                span(gaps["recall"], signed=True),
                "yes" if inside else "no",
                f"{values['fired'].value:.1f} %",
                "ceiling" if method == CEILING else "yes" if met else "no",
            )


def grid_table(tuning: Mapping[str, Any], method: str) -> str:
    """Every setting of one ablation: CHAIR_i (recall, percent of tokens acted on), model beside model."""
    models = [*tuning]
    settings = zip(*(tuning[model]["methods"][method]["trials"] for model in models), strict=True)
    rows = [
        [_spelled(trials[0]["knobs"]), *(_cell(trial["figures"]) for trial in trials)] for trials in settings
    ]
    plain = [
        _cell({name: each["value"] for name, each in tuning[model]["greedy"].items()}) for model in models
    ]
    return table([method, *models], [["greedy", *plain], *rows])


def _cell(figures: Mapping[str, float]) -> str:
    return f"{figures['CHAIR_i']:.1f} ({figures['recall']:.0f}, {figures['fired']:.0f} %)"


def write(parts: Sequence[str], path: Path) -> None:
    """In one move, so that a kill leaves the old page or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", "utf-8")
    partial.replace(path)

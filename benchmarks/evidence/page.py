"""docs/evidence.md, written from the run folders: every figure on it is of a run that it names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.evidence import texts
from benchmarks.evidence.answers import Training
from benchmarks.evidence.trainings import pooled
from benchmarks.evidence.versus import DRAWS, LEVEL, OURS, OUTSIDE, PEERS, Comparison, compared, drawn_again
from benchmarks.statistics import Interval

GREEDY = "greedy"
CEILING = "skip-always"
NOTHING = "nothing recommended"
LATE, CONTROL = "miniature-late-prior", "miniature-natural"


PROTOCOL = Path(__file__).with_name("protocol.md")
AUROC_AIM = 0.85
MANY, NEAR = 200_000, 2
"""Exchanges for a corrected p within that factor of the level."""
AIM = -0.25
"""CHAIR_i less greedy's, as a share of greedy's."""


def head(trainings: Sequence[Training]) -> str:
    """Title, where the figures are from, and the protocol."""
    rows = []
    for training in trainings:
        made = json.loads((training.path / "versions.json").read_text("utf-8"))
        weights = [f"{made['model'][name].removeprefix('sha256:')[:12]}" for name in (LATE, CONTROL)]
        source = f"runs/evidence/training-{training.number}"
        if training.number:
            source = f"benchmarks/evidence/kept/{training.number}.tar.xz"
        rows.append([str(training.number), f"`{source}`", *weights, made["code"]["the code"][:12]])
    return "\n\n".join(
        [
            "# Evidence",
            "Written by `make evidence`; whoever edits it by hand loses the edit. Every figure is of one of "
            "these answers, or of the run folder that is named beside it.",
            table(["training", "answers", f"weights of {LATE}", f"of {CONTROL}", "code"], rows),
            *([texts.TRAININGS] if len(trainings) > 1 else []),
            *(
                [f"**Of the three trainings that the protocol asks for, {len(trainings)} so far.**"]
                if len(trainings) < 3
                else []
            ),
            "## Fixed before the test was scored",
            PROTOCOL.read_text("utf-8"),
        ]
    )


def risk(words: Mapping[str, Any]) -> str:
    """AUROC of the token risk, against the aim and its rivals."""
    signs = [*next(iter(words.values()))["auroc"]]
    rows = [[sign, *(_auroc(words[model]["auroc"][sign]) for model in words)] for sign in signs]
    first = words[LATE]["auroc"][signs[0]]["value"]
    met = "reached" if first >= AUROC_AIM else "not reached"
    told = (
        f"How well a sign tells invented from correct object words on the test: AUROC, training 0 "
        f"(`runs/evidence/words.json`). The aim on the late-prior model, {AUROC_AIM} for the risk, is {met}. "
        f"Below one half a sign points the other way."
    )
    return told + "\n\n" + table(["sign", *words], rows)


def known(value: float | None) -> str:
    """Three digits; - where there was nothing to measure."""
    return "-" if value is None else f"{value:.3f}"


def _auroc(told: Mapping[str, float]) -> str:
    return f"{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}]"


def tally(comparisons: Sequence[Comparison]) -> str:
    """How many wins, ties and losses on each model."""
    counts = [
        f"{model}: " + ", ".join(f"{sum(c.verdict == v for c in own)} {v}" for v in ("win", "tie", "loss"))
        for model in dict.fromkeys(each.model for each in comparisons)
        if (own := [each for each in comparisons if each.model == model])
    ]
    return "; ".join(counts) + "."


def words_parts(words: Mapping[str, Any]) -> list[str]:
    """The pictures of words.json, and how well each block tells."""
    blocks = range(len(next(iter(words.values()))["auroc of each block"]))
    rows = [[str(b), *(_auroc(words[m]["auroc of each block"][b]) for m in words)] for b in blocks]
    return [
        "![Who leads at which readout](evidence/leads.png)",
        "![Mean js by block for kinds of words](evidence/js.png)",
        "AUROC of each block's js alone:",
        table(["block", *words], rows),
        "![Mean js by block with and without the image](evidence/text-only.png)",
        texts.TEXT_ONLY,
    ]


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
    """Tokens a second as a share of greedy's in the same run, training by training; - if unknown."""
    shares = [
        training.costs[model, method]["tokens_per_second"]
        / training.costs[model, GREEDY]["tokens_per_second"]
        for training in trainings
        if {(model, method), (model, GREEDY)} <= training.costs.keys()
    ]
    return " / ".join(f"{share:.2f}" for share in shares) or "-"


def peers_table(comparisons: Sequence[Comparison]) -> str:
    """A line a peer and model; "as published": in how many trainings no setting of the peer's qualified."""
    rows = [
        [
            each.model,
            each.peer + (f" ({'/'.join(dict.fromkeys(each.theirs))})" if len(PEERS[each.peer]) > 1 else ""),
            f"{each.published} of {len(each.theirs)}",
            "/".join(dict.fromkeys(each.ours)),
            *_gaps(each),
            f"{each.holm:.2g}",
            f"**{each.verdict}**",
        ]
        for each in comparisons
    ]
    return table(
        ["model", "peer", "as published", "ours", "CHAIR_i less the peer's", "each training",
         "recall less the peer's", "p (Holm)", ""],
        rows,
    )  # fmt: skip


def _gaps(told: Comparison) -> tuple[str, str, str]:
    each = " / ".join(f"{value:+.1f}" for value in told.each)
    return span(told.chair, signed=True), each, span(told.recall, signed=True)


def close_calls(trainings: Sequence[Training], comparisons: Sequence[Comparison]) -> str:
    """What more exchanges say where the corrected p is near the level."""
    lines = [
        f"- {told.peer} on {told.model}, a {told.verdict}: p {told.holm:.3f} from the {DRAWS:,} exchanges "
        f"of the protocol, {drawn_again(trainings, told, MANY):.3f} from {MANY:,}."
        for told in comparisons
        if LEVEL / NEAR < told.holm < LEVEL * NEAR
    ]
    return (
        "\n".join(["Near the level, where the draw decides:", *lines]) if lines else "None is near the level."
    )


def outside_table(trainings: Sequence[Training], models: Sequence[str]) -> str:
    """The peers that the protocol does not name, compared in the same way but for the correction."""
    rows = [
        [told.model, told.peer, "/".join(dict.fromkeys(told.ours)), *_gaps(told), f"{told.p:.2g}"]
        for told in compared(trainings, models, OUTSIDE)
    ]
    heads = ["model", "peer", "ours", "CHAIR_i less the peer's", "each training", "recall less the peer's"]
    return table([*heads, "p, uncorrected"], rows)


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
         "length and objects in greedy's intervals", "acted on", "all but the 25 %", "25 % too"],
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
            verdicts = tuple("yes" if good else "no" for good in (met, met and relative <= AIM))
            if method == CEILING:
                verdicts = ("ceiling", "ceiling")
            elif not training.tuning[model]["methods"][method]["knobs"]:
                verdicts = (NOTHING, NOTHING)
            yield (
                model,
                method,
                str(training.number),
                span(gaps["CHAIR_i"], signed=True),
                f"{100 * relative:+.0f} %",
                span(gaps["recall"], signed=True),
                "yes" if inside else "no",
                f"{values['fired'].value:.1f} %",
                *verdicts,
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


def _cell(figures: Mapping[str, float | None]) -> str:
    chair = "-" if figures["CHAIR_i"] is None else f"{figures['CHAIR_i']:.1f}"  # no object is named
    return f"{chair} ({figures['recall']:.0f}, {figures['fired']:.0f} %)"


def write(parts: Sequence[str], path: Path) -> None:
    """In one move, so that a kill leaves the old page or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", "utf-8")
    partial.replace(path)

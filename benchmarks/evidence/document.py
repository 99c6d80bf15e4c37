"""docs/evidence.md as a whole: which table and which picture stands where."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import curriculum, page, pictures, texts, verdicts, words
from benchmarks.evidence.answers import Training
from benchmarks.evidence.commands import RUNS
from benchmarks.evidence.trainings import pooled
from benchmarks.evidence.versus import compared

DOCS = Path("docs")
MODELS = (page.LATE, page.CONTROL)
ABLATIONS = {
    "threshold": "From which js on a block counts as a mutation.",
    "window": "Where the search begins (null: found for each token), with the last block and without it.",
    "paper": "The authors' recipe: the block of the largest js from 18/32 of the depth on, at every token.",
    "divergence": "Which divergence is watched, all with the threshold 0.05.",
    "norm": "Layers read through the final norm, and without it.",
    "gate": "Only where the model is in doubt (max_prob), and only where its first choice changed.",
    "part": "Only where the model's own next word is an object, or only where it is another word.",
    "jsd": "The true JSD of the late blocks decides, without the final norm, as the released scripts read.",
    "released": "The divergence of the released scripts decides in its place; all else is the same.",
    "direction": "Only where the change leads toward, or away from, what the model says without the image.",
}


def write(trainings: list[Training]) -> Path:
    """The page and its pictures. Returns: the page."""
    methods = [name for name in trainings[0].config["method"] if name != page.GREEDY]
    tuned = [name for name in methods if name in trainings[0].tuning[MODELS[0]]["methods"]]
    told, comparisons = words.read(), compared(trainings, MODELS)
    draw(trainings, methods, told)
    parts = [page.head(trainings), "## What was aimed at", page.aims(trainings, MODELS), page.risk(told)]
    parts += ["## What calibration and diagnosis say", texts.VERDICTS, *verdicts.section(trainings, MODELS)]
    parts += ["## Against the peers", page.tally(comparisons), page.peers_table(comparisons)]
    parts += [texts.PEERS, page.close_calls(trainings, comparisons)]
    parts += ["### Outside the fixed comparison", texts.OUTSIDE, page.outside_table(trainings, MODELS)]
    parts += [
        "## All methods on the shifted test",
        texts.READING,
        "![CHAIR_i less greedy's](evidence/differences.png)",
    ]
    for model in MODELS:
        parts += [f"### {model}", page.methods_table(trainings, model, [page.GREEDY, *methods])]
    parts += [
        "## What was tried and chosen on validation",
        "![Frontier](evidence/frontier.png)",
        texts.FRONTIER,
    ]
    parts += [
        part
        for model in MODELS
        for part in (f"### {model}, chosen", page.knobs_table(trainings, model, tuned))
    ]
    parts += [
        "## Which way, and against which layer",
        texts.GRID,
        "![alpha by readout](evidence/alpha-layer.png)",
    ]
    parts += ["## What the detector is made of", texts.DETECTORS, *ablations()]
    parts += ["## Where invented words come from", texts.WORDS, *page.words_parts(told)]
    parts += ["## Looking for a late prior that is not planted", *curriculum.section(RUNS / "kept")]
    page.write(parts, DOCS / "evidence.md")
    return DOCS / "evidence.md"


def ablations() -> list[str]:
    tuning = _tuning("detectors")
    return [
        part
        for name, text in ABLATIONS.items()
        for part in (f"### {name}", text, page.grid_table(tuning, name))
    ]


def draw(trainings: list[Training], methods: list[str], told: dict[str, Any]) -> None:
    """All pictures, from the same numbers as the tables."""
    folder, tuning = DOCS / "evidence", trainings[0].tuning
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = {model: {} for model in MODELS}
    for model in MODELS:
        plain = [training.figures(model, page.GREEDY) for training in trainings]
        for method in methods:
            own = [training.figures(model, method) for training in trainings]
            each = [a["CHAIR_i"].value - b["CHAIR_i"].value for a, b in zip(own, plain, strict=True)]
            found[model][method] = (pooled(own, plain)[1]["CHAIR_i"], each)
    pictures.differences(found, folder / "differences.png")
    trials = {
        model: {
            method: [
                (trial["figures"]["recall"], trial["figures"]["CHAIR_i"])
                for trial in choice["trials"]
                if trial["figures"]["CHAIR_i"] is not None  # no object is named
            ]
            for method, choice in tuning[model]["methods"].items()
        }
        for model in MODELS
    }
    greedy = {m: tuple(tuning[m]["greedy"][name]["value"] for name in ("recall", "CHAIR_i")) for m in MODELS}
    pictures.frontiers(trials, greedy, folder / "frontier.png")
    pictures.grids({model: _grid(model) for model in MODELS}, folder / "alpha-layer.png")
    leading = {
        f"{model}: {kind} words": {
            "the word itself leads": told[model]["leads"][kind],
            "an object of the image leads": told[model]["an object of the image leads"][kind],
        }
        for model in MODELS
        for kind in ("hallucinated", "correct")
    }
    pictures.curves(leading, folder / "leads.png", across="readout", up="share of the words")
    for name, key in (("js", "js"), ("text-only", "js with and without the image")):
        lines = {model: told[model][key] for model in MODELS}
        pictures.curves(lines, folder / f"{name}.png", across="block", up="mean js, nats")


def _grid(model: str) -> tuple[list[float], list[int], np.ndarray, float]:
    tuning = _tuning("alpha-layer")[model]
    values = {
        (t["knobs"]["alpha"], t["knobs"]["layer"]): t["figures"]["CHAIR_i"]
        for t in tuning["methods"]["alpha-layer"]["trials"]
    }
    alphas, layers = sorted({a for a, _ in values}), sorted({layer for _, layer in values})
    table = np.array([[values[alpha, layer] for layer in layers] for alpha in alphas], float)
    return alphas, layers, table, tuning["greedy"]["CHAIR_i"]["value"]


def _tuning(name: str) -> dict[str, Any]:
    return dict(json.loads((RUNS / name / "tuning.json").read_text("utf-8"))["models"])

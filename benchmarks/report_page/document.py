"""report.html as a whole: what stands on it, in which order, from what the run has measured."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.comparable import leaves
from benchmarks.folder import ELSEWHERE, RunFolder
from benchmarks.measured import Measured
from benchmarks.plan import Job, Plan
from benchmarks.problems import Problems
from benchmarks.report import LEGEND, MCNEMAR, NAMED, spelled
from benchmarks.report_page import answers, charts, figures, images
from benchmarks.tuning import RULE, Tuned

PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # answers, names of files and knobs may hold anything
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PICTURES = {
    "js_by_layer.png": "Mean Jensen-Shannon divergence that each block makes, for correct, hallucinated and "
    "function words of greedy captions, with a 95 % band of the mean: one panel a model.",
    "js_heatmap.png": "One greedy caption of each model, its tokens downwards and the blocks to the right, "
    "dark where a block changes much; hallucinated words in red.",
}


def write(planned: Plan, folder: RunFolder, measured: Measured, costs: Sequence[Mapping[str, Any]]) -> None:
    """Writes report.html into the run folder, whole or not at all; ``costs`` are the rows of cost.json."""
    rows, tuned, shown = measured.rows, measured.tuned, measured.shown
    drawn = [(told, images.png_file(folder.path / name)) for name, told in PICTURES.items()]
    context = {
        "run": what_was_run(planned, folder, rows),
        "legend": LEGEND,
        "tables": figures.tables(rows),
        "mcnemar_legend": MCNEMAR,
        "mcnemar": figures.tests(rows),
        "rule": RULE,
        "knobs": {model: knobs(found) for model, found in tuned.items() if found.methods},
        "frontiers": [(told, images.png(content)) for told, content in charts.methods(rows)],
        "tried": [(told, images.png(content)) for told, content in filter(None, [charts.tried(tuned)])],
        "js": [(told, source) for told, source in drawn if source is not None],
        "captions": [
            answers.captions(model, own.captions, measured.traced[model])
            for model, own in shown.items()
            if own.captions is not None
        ],
        "questions": [answers.questions(model, each) for model, own in shown.items() for each in own.answers],
        "most": planned.config["pictures"]["worst"],
        "trace_notes": [note for own in measured.traced.values() for note in own.notes],
        "costs": figures.relative(costs),
        "problems": told(measured.problems),
    }
    folder.write("report.html", PAGE.get_template("report.html").render(context))


def what_was_run(planned: Plan, folder: RunFolder, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names, settings, versions and checksums, and the command that does it again."""
    made = json.loads((folder.path / "versions.json").read_text("utf-8"))
    first = {(row["model"], row["task"]): row["stands_for"] for row in reversed(rows)}
    prompts = {task: stands_for["prompt"] for (_, task), stands_for in first.items()}
    return {
        "command": command(),
        "commit": made["commit"],
        "versions": {"python": made["python"], "platform": made["platform"], **made["code"]},
        "models": [
            {"name": name, "path": checkpoint.path, "weights": planned.weights[name]}
            | {"dtype": next((s["dtype"] for (model, _), s in first.items() if model == name), "unknown")}
            for name, checkpoint in planned.models.items()
        ],
        "methods": [
            (name, spelled({k: v for k, v in leaves(node) if v is not None and not k.startswith("tune")}))
            for name, node in planned.config["method"].items()
        ],
        "tasks": [task(job, prompts.get(job.name, "")) for job in planned.jobs],
        "validation": task(planned.validation, "") if planned.validation is not None else None,
        "bootstrap": planned.config["bootstrap"],
    }


def task(job: Job, prompt: str) -> dict[str, Any]:
    return {
        "name": job.name,
        "items": len(job.items),
        "images": len({item.image_id for item in job.items}),
        "tokens": job.task.max_new_tokens,
        "prompt": prompt,
        "data": job.data,
    }


def command() -> str | None:
    """What was typed, less where the run went and how it was shared; None where Hydra has not begun it."""
    if not HydraConfig.initialized():
        return None
    known = HydraConfig.get()
    words = [w for w in known.overrides.task if w.lstrip("+~").split("=")[0] not in ELSEWHERE]
    given = [
        w
        for source in known.runtime.config_sources
        if source.provider == "command-line"
        for w in ("--config-dir", source.path)
    ]
    return shlex.join(["python", "-m", "benchmarks", *given, *words])


def knobs(tuned: Tuned) -> dict[str, Any]:
    """What was chosen for one model, and every setting that was tried."""
    return {
        "greedy": {name: _number(interval.value) for name, interval in tuned.greedy.items()},
        "methods": [
            {
                "name": name,
                "chosen": spelled(choice.knobs) or "as in its YAML",
                "note": choice.note,
                "trials": [
                    {
                        "knobs": spelled(trial.knobs) or "as in its YAML",
                        "figures": [_number(trial.figures[name]) for name in tuned.greedy],
                        "against": "; ".join(trial.against),
                        "chosen": bool(choice.knobs) and trial.knobs == choice.knobs,
                    }
                    for trial in choice.trials
                ],
            }
            for name, choice in tuned.methods.items()
        ],
    }


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"


def told(problems: Problems) -> dict[str, Any]:
    """What went wrong with single items, the first NAMED of them, and with whole rows."""
    errors = problems.errors()
    return {
        "left_out": problems.left_out(),
        "errors": errors[:NAMED],
        "more": max(0, len(errors) - NAMED),
        "converted": problems.converted(),
    }

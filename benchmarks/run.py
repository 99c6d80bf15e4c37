"""One run: plan, tune, answer, score, report; each step keeps what an earlier, stopped run has finished."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import pictures, processes, report
from benchmarks.answered import Line
from benchmarks.folder import RunFolder, open_folder
from benchmarks.generation import generate
from benchmarks.methods import Method
from benchmarks.models import Loaded
from benchmarks.plan import Job, Plan, plan
from benchmarks.scoring import GREEDY, compare, readable
from benchmarks.statistics import intervals
from benchmarks.tasks import figures
from benchmarks.tuning import JUDGED, RULE, Choice, Tuned, choose, judge


def run(config: Mapping[str, Any], path: Path) -> None:
    """Does what the resolved configuration asks for, into ``path``.

    Raises: UsageError on what the user can mend; nothing is written before everything was checked.
    """
    first = processes.rank() == 0
    planned, folder = plan(config), RunFolder(path)
    if first:
        prepare(config, path, planned)
        print(
            f"run folder {path} (if it is stopped, the same command with folder={path} goes on)", flush=True
        )
    processes.wait()
    tuned: dict[str, Tuned] = {}
    rows: list[dict[str, Any]] = []
    unread: set[tuple[str, str]] = set()
    observed = {}
    for name, checkpoint in planned.models.items():
        loaded = checkpoint.load(name)
        tuned[name] = tune(planned, loaded, folder)
        if first:
            told = {"rule": RULE, "models": {model: asdict(t) for model, t in tuned.items()}}
            folder.write("tuning.json", told)
        for job in planned.jobs:
            answers = {
                method.name: answer(
                    planned, loaded, method, job, folder.predictions(name, method.name, job.name)
                )
                for method in chosen(planned, tuned[name].methods)
            }
            unread |= {
                (line["image_id"], line["error"])
                for lines in answers.values()
                for line in lines
                if "error" in line
            }
            rows += compare(name, job, answers, planned.config["bootstrap"])
        if first:
            observed[name] = pictures.observe(
                loaded, planned.jobs, config["pictures"]["captions"], config["generation"]["batch_size"]
            )
    if not first:
        return
    folder.write("scores.json", {"rows": rows})
    folder.write("table.md", report.document(rows, tuned, unread))
    pictures.draw(observed, folder.path)
    print(report.terminal(rows, tuned, unread))


def prepare(config: Mapping[str, Any], path: Path, planned: Plan | None = None) -> None:
    """Checks everything, and takes the folder. Raises: UsageError on what the user can mend."""
    planned = plan(config) if planned is None else planned
    open_folder(path, config, planned.checksums, overwrite=config["overwrite"])


def tune(planned: Plan, loaded: Loaded, folder: RunFolder) -> Tuned:
    """The knobs that the rule of tuning.py chooses on this model's validation captions."""
    if planned.validation is None:
        return Tuned({}, {})
    job, settings = planned.validation, planned.config["bootstrap"]
    plain = Method(GREEDY, None, None, {})
    lines = readable(answer(planned, loaded, plain, job, folder.tuning(loaded.name, GREEDY, 0)))
    greedy, _ = intervals(figures(job.task, lines), **settings)
    choices = {}
    for name, tried in planned.candidates.items():
        trials = []
        for number, candidate in enumerate(tried):
            path = folder.tuning(loaded.name, name, number)
            lines = readable(answer(planned, loaded, candidate.method, job, path))
            values = {key: figure.value for key, figure in figures(job.task, lines).items()}
            below = planned.config["tuning"]["below"] if candidate.method.gated else None
            trials.append(judge(candidate.knobs, values, greedy, below=below))
        choices[name] = choose(trials)
    return Tuned({name: greedy[name] for name in JUDGED}, choices)


def chosen(planned: Plan, choices: Mapping[str, Choice]) -> list[Method]:
    """The methods to measure, with the knobs that were chosen for this model."""
    methods = []
    for name, method in planned.methods.items():
        knobs = choices[name].knobs if name in choices else {}
        tried = [c.method for c in planned.candidates.get(name, ()) if knobs and c.knobs == knobs]
        methods.append(tried[0] if tried else method)
    return methods


def answer(planned: Plan, loaded: Loaded, method: Method, job: Job, path: Path) -> list[Line]:
    """One line for each item of the job, read from ``path`` as far as they are there."""
    return generate(
        loaded,
        method,
        job.items,
        path,
        answer=job.task.answer,
        max_new_tokens=job.task.max_new_tokens,
        title=f"{loaded.name} {method.name} {job.name}",
        **planned.config["generation"],
    )

"""One run: plan, tune, answer, score, report; each step keeps what an earlier, stopped run has finished."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cost, pictures, processes, report
from benchmarks.answered import Line
from benchmarks.batch import outline
from benchmarks.folder import RunFolder, code, opened
from benchmarks.generation import generate
from benchmarks.methods import Method, with_knobs
from benchmarks.models import Loaded
from benchmarks.plan import Job, Plan, plan
from benchmarks.problems import Problems
from benchmarks.scoring import GREEDY, compare, readable
from benchmarks.statistics import intervals
from benchmarks.tasks import figures
from benchmarks.tuning import JUDGED, RULE, Choice, Tuned, choose, judge


def run(config: Mapping[str, Any], path: Path) -> None:
    """Does what the resolved configuration asks for, into ``path``.

    Raises: UsageError on what the user can mend; nothing is written before everything was checked.
    """
    planned, first = plan(config), processes.rank() == 0
    with taken(config, path, planned) if first else nullcontext(RunFolder(path)) as folder:
        if first:
            again = f"if it is stopped, the same command with folder={path} goes on"
            print(f"run folder {path} ({again})", flush=True)
        processes.wait()
        rows, tuned, problems, observed = measure(planned, folder)
        if first:
            costs = list(spent(planned, folder))
            folder.write("scores.json", {"rows": rows})
            folder.write("problems.json", problems.rows())
            folder.write("cost.json", {"rows": costs})
            folder.write("table.md", report.document(rows, tuned, problems))
            pictures.draw(observed, folder.path)
            print(report.terminal(rows, tuned, problems, costs))


@contextmanager
def taken(config: Mapping[str, Any], path: Path, planned: Plan | None = None) -> Iterator[RunFolder]:
    """Checks everything, and takes the folder. Raises: UsageError on what the user can mend."""
    planned = plan(config) if planned is None else planned
    jobs = [*planned.jobs, *([planned.validation] if planned.validation else [])]
    data = {job.name: job.data for job in jobs}
    with opened(path, config, planned.weights, data, overwrite=config["overwrite"]) as folder:
        for job in jobs:
            images = dict.fromkeys(item.image_id for item in job.items)
            folder.write(f"lists/{job.name}.txt", "".join(f"{image}\n" for image in images))
        yield folder


def measure(
    planned: Plan, folder: RunFolder
) -> tuple[list[dict[str, Any]], dict[str, Tuned], Problems, dict[str, list[pictures.Caption]]]:
    """The rows of scores.json, how each model was tuned, what went wrong, what the pictures show."""
    first, config = processes.rank() == 0, planned.config
    rows: list[dict[str, Any]] = []
    tuned: dict[str, Tuned] = {}
    problems, observed = Problems(), {}
    for name, checkpoint in planned.models.items():
        loaded = checkpoint.load(name)
        tuned[name] = tune(planned, loaded, folder, problems)
        if first:
            told = {"rule": RULE, "models": {model: asdict(t) for model, t in tuned.items()}}
            folder.write("tuning.json", told)
        for job in planned.jobs:
            answers, stands_for = {}, {}
            for method, node in chosen(planned, tuned[name].methods):
                path = folder.predictions(name, method.name, job.name)
                lines = answer(planned, loaded, method, job, folder, path)
                problems.note(name, method.name, job.name, lines)
                answers[method.name] = lines
                stands_for[method.name] = standing(planned, loaded, job, node)
            rows += compare(name, job, answers, stands_for, config)
        if first:
            observed[name] = pictures.observe(
                loaded, planned.jobs, config["pictures"]["captions"], config["generation"]["batch_size"]
            )
    return rows, tuned, problems, observed


def tune(planned: Plan, loaded: Loaded, folder: RunFolder, problems: Problems) -> Tuned:
    """The knobs that the rule of tuning.py chooses on this model's validation captions."""
    if planned.validation is None:
        return Tuned({}, {})
    job, settings = planned.validation, planned.config["bootstrap"]

    def lines(method: Method, number: int) -> list[Line]:
        found = answer(planned, loaded, method, job, folder, folder.tuning(loaded.name, method.name, number))
        problems.note(loaded.name, method.name, job.name, found)
        return readable(found, job.task.answer, planned.config["unfinished"])

    greedy, _ = intervals(figures(job.task, lines(Method(GREEDY, None, None, {}), 0)), **settings)
    choices = {}
    for name, tried in planned.candidates.items():
        trials = []
        for number, candidate in enumerate(tried):
            found = figures(job.task, lines(candidate.method, number))
            values = {key: figure.value for key, figure in found.items()}
            below = planned.config["tuning"]["below"] if candidate.method.gated else None
            trials.append(judge(candidate.knobs, values, greedy, below=below))
        choices[name] = choose(trials)
    return Tuned({name: greedy[name] for name in JUDGED}, choices)


def chosen(planned: Plan, choices: Mapping[str, Choice]) -> Iterator[tuple[Method, Mapping[str, Any]]]:
    """The methods to measure, with the knobs that were chosen for this model, and their YAML with these."""
    for name, method in planned.methods.items():
        knobs = choices[name].knobs if name in choices else {}
        node = {key: value for key, value in planned.config["method"][name].items() if key != "tune"}
        tried = [c.method for c in planned.candidates.get(name, ()) if knobs and c.knobs == knobs]
        yield tried[0] if tried else method, with_knobs(node, knobs)


def standing(planned: Plan, loaded: Loaded, job: Job, node: Mapping[str, Any]) -> dict[str, Any]:
    """What figures stand for: two rows are comparable in as far as these agree."""
    checkpoint, brought = planned.models[loaded.name], loaded.model.generation_config.to_diff_dict()
    return {
        "path": checkpoint.path,
        "weights": planned.weights[loaded.name],
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "data": job.data,
        "task": dict(job.node),
        "prompt": first_prompt(loaded, job),
        "decoding": {
            "method": dict(node),
            "generation": {
                **planned.config["generation"],
                "max_new_tokens": job.task.max_new_tokens,
                "unfinished": planned.config["unfinished"],
            },
            # A checkpoint may bring settings of its own, such as a repetition penalty, under every method.
            "checkpoint": {key: value for key, value in brought.items() if key != "transformers_version"},
        },
        "code": code(),
    }


def first_prompt(loaded: Loaded, job: Job) -> str:
    """The text that the model gets of the first item that it takes; empty if it takes none."""
    for item in job.items:
        with suppress(ValueError):
            return loaded.rendered(outline(item))
    return ""


def spent(planned: Plan, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """What the answers of each model, method and task took, as far as it is known."""
    for model in planned.models:
        for job in planned.jobs:
            for method in planned.methods:
                found = cost.summary(sorted(folder.costs(model, method, job.name).glob("*.jsonl")))
                if found is not None:
                    yield {"model": model, "method": method, "task": job.name, **found}


def answer(
    planned: Plan, loaded: Loaded, method: Method, job: Job, folder: RunFolder, path: Path
) -> list[Line]:
    """One line for each item of the job, read from ``path`` as far as they are there."""
    return generate(
        loaded,
        method,
        job.items,
        path,
        folder.costs(loaded.name, method.name, job.name) / f"{processes.rank()}.jsonl",
        answer=job.task.answer,
        max_new_tokens=job.task.max_new_tokens,
        retry=planned.config["retry"],
        title=f"{loaded.name} {method.name} {job.name}",
        **planned.config["generation"],
    )

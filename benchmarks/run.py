"""One run: plan, tune, answer, score, report; each step keeps what an earlier, stopped run has finished."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache

from benchmarks import calibration, cost, pictures, processes, report
from benchmarks.answered import Line
from benchmarks.batch import outline
from benchmarks.folder import IMAGES, RunFolder, code, locked, opened
from benchmarks.generation import generate
from benchmarks.measured import Measured
from benchmarks.methods import Method, build, with_knobs
from benchmarks.models import Loaded
from benchmarks.plan import Job, Plan, plan
from benchmarks.problems import Problems
from benchmarks.report_page import document, traces
from benchmarks.report_page.worst import Shown
from benchmarks.scoring import GREEDY, common, compare, scored
from benchmarks.statistics import intervals
from benchmarks.tasks import figures
from benchmarks.tuning import JUDGED, RULE, Choice, Tuned, choose, judge
from benchmarks.usage import UsageError

PLAIN = "nothing is recommended, which is plain decoding"
"""What a calibrated method comes to that helps nowhere."""

RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""What those who start a stopped job again count in."""

ELSEWHERE = ("_target_", "_recursive_", "path", "revision", "device", "device_map")
"""Keys of a model's YAML that say where its files and devices are."""


def run(config: Mapping[str, Any], path: Path) -> None:
    """Does what the resolved configuration asks for, into ``path``.

    Raises: UsageError on what the user can mend; nothing is written before everything was checked.
    """
    planned, rank = checked(config), processes.rank()
    with taken(config, path, planned) if rank == 0 else nullcontext(RunFolder(path)) as folder:
        if rank == 0:
            again = "if it is stopped, the same command with folder={} goes on, less overwrite=true"
            print(f"run folder {path} ({again.format(path)})", flush=True)
        processes.wait()
        with nullcontext() if rank == 0 else locked(path, rank):
            measured = measure(planned, folder)
        if rank == 0:
            tell(planned, folder, measured)


def checked(config: Mapping[str, Any]) -> Plan:
    """Raises: UsageError on what the user can mend."""
    planned = plan(config)
    calibration.check(planned)
    return planned


@contextmanager
def taken(config: Mapping[str, Any], path: Path, planned: Plan | None = None) -> Iterator[RunFolder]:
    """Checks everything, and takes the folder. Raises: UsageError on what the user can mend."""
    planned = checked(config) if planned is None else planned
    jobs = [*planned.jobs, *([planned.validation] if planned.validation else [])]
    checksums = {
        "model": dict(planned.weights),
        "task": {job.name: job.data for job in jobs},
        IMAGES: {job.name: job.pixels for job in jobs},
    }
    # Who starts a stopped job again, with the words it had, does not want its answers gone.
    again = any(int(os.environ.get(name) or 0) > 0 for name in RESTARTS)
    overwrite = config["overwrite"] and not again
    with opened(path, config, checksums, overwrite=overwrite, retry=config["retry"]) as folder:
        for job in jobs:
            images = dict.fromkeys(item.image_id for item in job.items)
            folder.write(f"lists/{job.name}.txt", "".join(f"{image}\n" for image in images))
        yield folder


def measure(planned: Plan, folder: RunFolder) -> Measured:
    """Everything about one model after the other, of which one at a time is in memory."""
    found = Measured()
    for name in planned.models:
        measure_model(planned, name, folder, found)
        clear_device_cache(garbage_collection=True)
    return found


def measure_model(planned: Plan, name: str, folder: RunFolder, found: Measured) -> None:
    """Tunes on one model, answers and scores every task with it."""
    loaded, config = planned.models[name].load(name), planned.config
    found.tuned[name] = tune(planned, loaded, folder, found.problems)
    if processes.rank() == 0:
        told = {"rule": RULE, "models": {model: asdict(tuned) for model, tuned in found.tuned.items()}}
        folder.write("tuning.json", told)
    shown = Shown(config["pictures"]["worst"] if processes.rank() == 0 else 0, config["unfinished"])
    for job in planned.jobs:
        answers, stands_for = {}, {}
        for method, node in chosen(planned, found.tuned[name].methods):
            path = folder.predictions(name, method.name, job.name)
            lines = answer(planned, loaded, method, job, folder, path)
            found.problems.note(name, method.name, job.name, lines)
            answers[method.name] = lines
            stands_for[method.name] = standing(planned, loaded, job, node)
        found.rows += compare(name, job, answers, stands_for, config, found.problems)
        shown.look(job, answers)
    if processes.rank() == 0:
        captions, size = config["pictures"]["captions"], config["generation"]["batch_size"]
        found.observed[name] = pictures.observe(loaded, planned.jobs, captions, size)
        found.shown[name] = shown
        found.traced[name] = traces.keep(loaded, shown.captions, folder, size)


def tell(planned: Plan, folder: RunFolder, measured: Measured) -> None:
    """Writes and prints the results. Raises: UsageError when there is no row among them."""
    folder.write("problems.json", measured.problems.rows())
    if not measured.rows:
        raise UsageError(f"nothing could be scored: {'; '.join(measured.problems.left_out())}")
    folder.write("scores.json", {"rows": measured.rows})
    folder.write("table.md", report.document(measured.rows, measured.tuned, measured.problems))
    costs = list(spent(planned, folder))
    folder.write("cost.json", {"rows": costs})
    pictures.draw(measured.observed, folder.path)
    document.write(planned, folder, measured, costs)
    print(report.terminal(measured.rows, measured.tuned, measured.problems, costs))


def tune(planned: Plan, loaded: Loaded, folder: RunFolder, problems: Problems) -> Tuned:
    """The knobs that the rule of tuning.py chooses on this model's validation captions."""
    if planned.validation is None:
        return Tuned({}, {})
    job, config = planned.validation, planned.config
    answers: dict[str, list[Line]] = {}

    def ask(method: Method, number: int) -> None:
        key = f"{method.name} {number}"
        path = folder.tuning(loaded.name, method.name, number)
        answers[key] = answer(planned, loaded, method, job, folder, path)
        problems.note(loaded.name, method.name, job.name, answers[key])

    ask(Method(GREEDY, None, None, {}), 0)
    candidates = {**planned.candidates, **calibration.proposed(planned, loaded, folder)}
    for tried in candidates.values():
        for number, candidate in enumerate(tried):
            ask(candidate.method, number)
    kept = common(answers)
    found = {
        key: figures(job.task, scored(lines, job.task.answer, config["unfinished"]))
        for key, lines in kept.items()
        if lines
    }
    if f"{GREEDY} 0" not in found:
        problems.leave_out(loaded.name, GREEDY, job.name, "no answer to tune on; knobs as in the YAMLs")
        return Tuned({}, {})
    greedy, _ = intervals(found[f"{GREEDY} 0"], **config["bootstrap"])
    choices = {}
    for name, tried in candidates.items():
        trials = []
        for number, candidate in enumerate(tried):
            own = found.get(f"{candidate.method.name} {number}", {})
            values = {key: figure.value for key, figure in own.items()}
            below = config["tuning"]["below"] if candidate.method.gated else None
            if values:
                trials.append(judge(candidate.knobs, values, greedy, below=below))
        choices[name] = choose(trials, *([PLAIN] if name in planned.calibrated else []))
    return Tuned({name: greedy[name] for name in JUDGED}, choices)


def chosen(planned: Plan, choices: Mapping[str, Choice]) -> Iterator[tuple[Method, Mapping[str, Any]]]:
    """The methods to measure, with the knobs that were chosen for this model, and their YAML with these."""
    for name, method in planned.methods.items():
        node = {key: value for key, value in planned.config["method"][name].items() if key != "tune"}
        if name in choices and choices[name].knobs:
            node = with_knobs(node, choices[name].knobs)
            yield build(name, node), node
        elif name in choices and name in planned.calibrated:
            yield Method(name, None, None, {}), {"generate": {}}
        else:
            yield method, node


def standing(planned: Plan, loaded: Loaded, job: Job, node: Mapping[str, Any]) -> dict[str, Any]:
    """What figures stand for: two rows are comparable in as far as these agree."""
    node_of_model = planned.config["model"][loaded.name]
    checkpoint, brought = planned.models[loaded.name], loaded.model.generation_config.to_diff_dict()
    return {
        "path": checkpoint.path,
        "weights": planned.weights[loaded.name],
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "model": {key: value for key, value in node_of_model.items() if key not in ELSEWHERE},
        "data": job.data,
        "pixels": job.pixels,
        "task": dict(job.node),
        "prompt": first_prompt(loaded, job),
        "prompting": loaded.prompting,
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

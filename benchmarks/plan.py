"""Everything a run will need, made and checked before a token is generated or a file is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.methods import Method, build, candidates, create, with_knobs
from benchmarks.models import Checkpoint
from benchmarks.settings import check_arguments, check_values
from benchmarks.tasks import Item, Task
from benchmarks.usage import UsageError

CALIBRATED = "calibrated"
"""In place of lists under ``tune``: the candidates are what calibration proposes for the model."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task, its YAML, the items it asks about.

    Attributes:
        data: the checksum of the items and of the files that they are from.
        pixels: a checksum of the sizes of the images' files.
    """

    name: str
    task: Task
    node: Mapping[str, Any]
    items: Sequence[Item]
    data: str
    pixels: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """Knobs to try, and the method that has them."""

    knobs: Mapping[str, Any]
    method: Method


@dataclass(frozen=True, slots=True)
class Plan:
    """The resolved configuration, and what it stands for."""

    config: Mapping[str, Any]
    models: Mapping[str, Checkpoint]
    weights: Mapping[str, str]
    """Model -> checksum of its files."""
    methods: Mapping[str, Method]
    candidates: Mapping[str, Sequence[Candidate]]
    calibrated: Sequence[str]
    """Methods whose candidates are known only when the model has been watched."""
    jobs: Sequence[Job]
    validation: Job | None


def plan(config: Mapping[str, Any]) -> Plan:
    """Raises: UsageError on anything in the configuration that cannot work on the models it names."""
    for group in ("model", "method", "task"):
        if not config.get(group):
            raise UsageError(f"{group}=[] leaves nothing to run; name at least one")
    check_values(config)
    methods = {name: build(name, node) for name, node in config["method"].items()}
    for name, method in methods.items():
        check_arguments(name, method.generate)
    tried = {
        name: [Candidate(knobs, build(name, with_knobs(node, knobs))) for knobs in candidates(node)]
        for name, node in config["method"].items()
        if config["tune"] and node.get("tune") and node["tune"] != CALIBRATED
    }
    nodes = config["method"].items()
    calibrated = [name for name, node in nodes if config["tune"] and node.get("tune") == CALIBRATED]
    budget = config["tuning"]["budget"]
    for name, found in tried.items():
        if len(found) > budget:
            raise UsageError(
                f"method {name} lists {len(found)} candidates under tune, more than tuning.budget={budget} "
                f"allows to every method; shorten its lists, or raise the budget for all"
            )
    jobs = [_job(name, node) for name, node in config["task"].items()]
    validation = _job("validation", config["tuning"]["task"]) if tried or calibrated else None
    tuned_on = {item.image_id for item in validation.items} if validation else set()
    for job in jobs:
        shared = {item.image_id for item in job.items} & tuned_on
        if shared:
            raise UsageError(
                f"task {job.name} asks about {len(shared)} of the images that knobs are tuned on; "
                f"choose others under tuning.task, or tune=false"
            )
    models = {name: create(f"model {name}", node) for name, node in config["model"].items()}
    for name, checkpoint in models.items():
        depth = checkpoint.check(name)
        for method in (*methods.values(), *(c.method for found in tried.values() for c in found)):
            method.check(depth)
    weights = {name: checkpoint.checksum() for name, checkpoint in models.items()}
    return Plan(config, models, weights, methods, tried, calibrated, jobs, validation)


def _job(name: str, node: Mapping[str, Any]) -> Job:
    task = create(f"task {name}", node)
    if not isinstance(task.max_new_tokens, int) or task.max_new_tokens < 1:
        raise UsageError(
            f"task {name}: max_new_tokens={task.max_new_tokens}; expected a whole number, at least 1"
        )
    items = task.items()
    total = hashlib.sha256()
    for path in task.files():
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    for item in items:
        turns = [(turn.role, turn.text, len(turn.images)) for turn in item.turns]
        total.update(json.dumps([dict(item.record), turns]).encode())
    return Job(name, task, node, items, f"sha256:{total.hexdigest()}", _sizes(items))


def _sizes(items: Sequence[Item]) -> str:
    """A checksum of the sizes of the images' files: all that can be known of them in no time."""
    sizes: dict[Path, int | None] = {}
    for item in items:
        for path in (getattr(read, "path", None) for turn in item.turns for read in turn.images):
            if path is not None and path not in sizes:
                sizes[path] = path.stat().st_size if path.is_file() else None
    return f"sha256:{hashlib.sha256(json.dumps([*sizes.values()]).encode()).hexdigest()}"

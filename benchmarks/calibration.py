"""``tune: calibrated``: candidates for contrast and skip that are read off the model itself, not off a list.

The library watches plain decoding on the validation images, finds out whether invented words come late or
early, and proposes settings; these are tried and judged as those of any other method, within the same budget.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from benchmarks import processes
from benchmarks.batch import UNREADABLE, conversation
from benchmarks.folder import RunFolder
from benchmarks.methods import build, with_knobs
from benchmarks.models import Loaded
from benchmarks.plan import CALIBRATED, Candidate, Job, Plan
from benchmarks.usage import UsageError
from mutation_decode import Contrast, Findings, Gate, Proposal, Skip, examine

REMEDIES = {Contrast: "contrast", Skip: "skip"}


@runtime_checkable
class KnowsObjects(Protocol):
    """A task that knows which objects an image shows, and where an answer names objects."""

    def shown(self, image_id: str) -> frozenset[str]: ...

    def named(self, text: str) -> Sequence[tuple[str, int]]:
        """Object and the place where its word begins, in order and with repetition."""
        ...


def check(planned: Plan) -> None:
    """Raises: UsageError where a method or the validation task is none that calibration can do with."""
    for name in planned.calibrated:
        if type(planned.methods[name].strategy) not in REMEDIES:
            raise UsageError(
                f"method {name}: tune={CALIBRATED} is for Contrast and Skip; give it lists to try"
            )
        assert planned.validation is not None
        if not isinstance(planned.validation.task, KnowsObjects):
            raise UsageError(
                f"method {name}: tune={CALIBRATED} needs a tuning.task that knows the objects of its images, "
                f"and {type(planned.validation.task).__name__} does not; use tuning=coco or tune=false"
            )


def proposed(planned: Plan, loaded: Loaded, folder: RunFolder) -> dict[str, list[Candidate]]:
    """Method -> candidates, from ``calibration/<model>.json``, which is written first if it is not there."""
    if not planned.calibrated:
        return {}
    path = folder.path / "calibration" / f"{loaded.name}.json"
    if processes.rank() == 0 and not path.exists():
        assert planned.validation is not None
        found = watched(loaded, planned.validation, planned.config["generation"]["batch_size"])
        folder.write(f"calibration/{path.name}", _told(planned, found))
    processes.wait()
    told = json.loads(path.read_text("utf-8"))["candidates"]
    nodes = planned.config["method"]
    return {
        name: [Candidate(knobs, build(name, with_knobs(nodes[name], knobs))) for knobs in told[name]]
        for name in planned.calibrated
    }


def watched(loaded: Loaded, job: Job, batch_size: int) -> Findings:
    """What plain decoding does on the images of a task that knows their objects, less unreadable ones."""
    task = job.task
    assert isinstance(task, KnowsObjects)
    asked = []
    for item in job.items:
        try:
            asked.append((conversation(item)[0], task.shown(item.image_id)))
        except UNREADABLE:
            continue
    batches = [asked[start : start + batch_size] for start in range(0, len(asked), batch_size)]
    return examine(
        loaded.model,
        loaded.processor.tokenizer,
        (
            (loaded.inputs([messages for messages, _ in batch]), [truth for _, truth in batch])
            for batch in batches
        ),
        mentions=task.named,
        max_new_tokens=task.max_new_tokens,
    )


def _told(planned: Plan, found: Findings) -> dict[str, Any]:
    budget, nodes = planned.config["tuning"]["budget"], planned.config["method"]
    candidates = {
        name: [
            _knobs(each, nodes[name])
            for each in found.propose(REMEDIES[type(planned.methods[name].strategy)], budget)
        ]
        for name in planned.calibrated
    }
    return {"verdict": found.verdict, **found.to_json(), "candidates": candidates}


def _knobs(proposal: Proposal, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a proposal changes in a method's YAML."""
    parts = {"detector": proposal.detector, "gate": proposal.gate or Gate()}
    return _changes(proposal.strategy, node) | {
        key: changes for key, part in parts.items() if (changes := _changes(part, node.get(key) or {}))
    }


def _changes(part: Any, node: Mapping[str, Any]) -> dict[str, Any]:
    assert is_dataclass(part)
    assert not isinstance(part, type)
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(part).items()}
    return {
        each.name: values[each.name]
        for each in fields(part)
        if values[each.name] != node.get(each.name, each.default)
    }

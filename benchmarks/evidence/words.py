"""``python -m benchmarks.evidence.words``: where invented words come from, word by word and layer by layer.

On greedy answers of the shipped models: who leads at which readout, how well every layer's divergence and
simple rivals tell invented object words from correct ones, the true JSD against that of the released scripts,
and the same question without the image. The window of the risk is that of validation; AUROCs are on the test.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.batch import conversation
from benchmarks.calibration import watched
from benchmarks.evidence.answers import TASK, Training
from benchmarks.evidence.commands import RUNS
from benchmarks.methods import create
from benchmarks.models import Loaded
from benchmarks.plan import Job
from benchmarks.released import Watching
from mutation_decode import Contrast, Findings, MutationLogitsProcessor

BATCH = 100
KINDS = ("correct", "hallucinated", "other")
UNTOUCHED = Contrast(alpha=0.0, layer=0, always=True)  # reads every layer, changes no score


def main() -> None:
    """Writes runs/evidence/words.json, unless it is there and of the same weights, scenes and code."""
    training = Training(0, RUNS / "training-0")
    made = json.loads((training.path / "versions.json").read_text("utf-8"))
    of = {**{key: made[key] for key in ("model", "task", "code")}, "this": _this()}
    path = RUNS / "words.json"
    if path.exists() and json.loads(path.read_text("utf-8")).get("of") == of:
        return
    models = {name: measured(training, name) for name in training.config["model"]}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"of": of, "models": models}, indent=1) + "\n", "utf-8")
    partial.replace(path)


def _this() -> str:
    """The checksum of this file, which that of the code leaves out."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


@torch.inference_mode()
def measured(training: Training, name: str) -> dict[str, Any]:
    """All of it for one model, in plain numbers."""
    loaded = create(f"model {name}", training.config["model"][name]).load(name)
    nodes = {"validation": training.config["tuning"]["task"], "test": training.config["task"][TASK]}
    jobs = {split: job(split, node) for split, node in nodes.items()}
    window = watched(loaded, jobs["validation"], BATCH).window
    found = watched(loaded, jobs["test"], BATCH)
    late = slice(*window)
    raw, released = _without_norm(loaded, jobs["test"])
    signs = {
        "risk: largest late js": found.tells(found.tokens.js[:, late].max(axis=1)),
        "late js without the final norm": found.tells(raw[:, late].max(axis=1)),
        "late divergence of the released scripts": found.tells(released[:, late].max(axis=1)),
        "entropy": found.signs["entropy"],
        "1 - p": found.signs["1 - p"],
        "early lead": found.signs["early lead"],
    }
    return {
        "window": list(window),
        "tokens": {kind: found.counts[kind] for kind in KINDS},
        "auroc": {sign: asdict(interval) for sign, interval in signs.items()},
        "auroc of each block": [asdict(interval) for interval in found.blocks],
        "js": {kind: found.js[kind].tolist() for kind in KINDS},
        "leads": {kind: found.leads[kind].tolist() for kind in KINDS[:2]},
        "an object of the image leads": {kind: found.shown_leads[kind].tolist() for kind in KINDS[:2]},
        "js with and without the image": {
            "with the image": _mean_js(found),
            "without it": _text_only(loaded, jobs["test"]),
        },
    }


def job(name: str, node: Any) -> Job:
    """A task and its items, from its YAML."""
    task = create(f"task {name}", node)
    return Job(name, task, node, task.items(), "", "")


def _mean_js(found: Findings) -> list[float]:
    return [float(value) for value in found.tokens.js.mean(axis=0)]


def batches(loaded: Loaded, job: Job, *, images: bool = True, size: int = BATCH) -> Sequence[Any]:
    """The inputs of generate for the items of a job, with their images or the words alone."""
    told = [conversation(item)[0] for item in job.items]
    if not images:
        told = [
            [{**turn, "content": [p for p in turn["content"] if p["type"] == "text"]} for turn in each]
            for each in told
        ]
    return [loaded.inputs(told[start : start + size]) for start in range(0, len(told), size)]


def _without_norm(loaded: Loaded, job: Job) -> tuple[Any, Any]:
    """True and released divergence of all tokens of the greedy answers, both without the final norm."""
    true, released = [], []
    for inputs in batches(loaded, job):
        watching = Watching()
        with MutationLogitsProcessor(
            loaded.model, watching, detector=None, norm=False, trace=True
        ) as processor:
            _greedy(loaded, job, inputs, processor)
            assert processor.trace is not None
            kept = processor.trace.generated
            true.append(processor.trace.js[kept])
            released.append(torch.stack(watching.steps, dim=1)[:, : kept.shape[1]][kept])
    return torch.cat(true).numpy(), torch.cat(released).numpy()


def _text_only(loaded: Loaded, job: Job) -> list[float]:
    """Mean js of every block over the answers to the same words without an image."""
    found = []
    for inputs in batches(loaded, job, images=False):
        with MutationLogitsProcessor(loaded.model, UNTOUCHED, detector=None, trace=True) as processor:
            _greedy(loaded, job, inputs, processor)
            assert processor.trace is not None
            found.append(processor.trace.js[processor.trace.generated])
    return [float(value) for value in torch.cat(found).mean(dim=0)]


def _greedy(loaded: Loaded, job: Job, inputs: Any, processor: MutationLogitsProcessor) -> None:
    loaded.model.generate(
        **inputs,
        max_new_tokens=job.task.max_new_tokens,
        do_sample=False,
        pad_token_id=loaded.processor.tokenizer.pad_token_id,
        logits_processor=[processor],
    )


def read() -> dict[str, Any]:
    """Model -> what `measured` found."""
    return dict(json.loads((RUNS / "words.json").read_text("utf-8"))["models"])


if __name__ == "__main__":
    main()

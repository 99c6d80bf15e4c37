"""Late or early, with labels and without: what calibration and `diagnose` say of every trained model."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.evidence.answers import DIAGNOSIS, Training
from benchmarks.evidence.page import known, table
from benchmarks.evidence.words import batches, job
from benchmarks.folder import RunFolder
from benchmarks.methods import create
from mutation_decode import diagnose

BATCH = 50  # twins double it
SIGNS = ("risk", "late js", "early lead")


def diagnosed(training: Training) -> None:
    """Writes diagnosis.json into a run folder, unless it is there and of the same weights, images, code."""
    made = json.loads((training.path / "versions.json").read_text("utf-8"))
    of = {key: made[key] for key in ("model", "task", "code")}
    path = training.path / DIAGNOSIS
    if path.exists() and json.loads(path.read_text("utf-8"))["of"] == of:
        return
    models = {name: _of(training, name) for name in training.config["model"]}
    RunFolder(training.path).write(DIAGNOSIS, {"of": of, "models": models})


def _of(training: Training, name: str) -> dict[str, Any]:
    loaded = create(f"model {name}", training.config["model"][name]).load(name)
    asked = job("validation", training.config["tuning"]["task"])
    inputs = batches(loaded, asked, size=BATCH)
    return diagnose(loaded.model, inputs, max_new_tokens=asked.task.max_new_tokens).to_dict()


def section(trainings: Sequence[Training], models: Sequence[str]) -> list[str]:
    """How often the two agree, and a line for every trained model."""
    rows, agree = [], 0
    for model in models:
        for training in trainings:
            labelled = json.loads((training.path / "calibration" / f"{model}.json").read_text("utf-8"))
            plain = json.loads((training.path / DIAGNOSIS).read_text("utf-8"))["models"][model]
            agree += labelled["verdict"] == plain["verdict"]
            aurocs = [known(labelled["auroc"][sign][0]) for sign in SIGNS]
            fall = f"{plain['fall']:.3f} [{plain['interval'][0]:.3f}, {plain['interval'][1]:.3f}]"
            window = "{}..{}".format(labelled["window"][0], labelled["window"][1] - 1)
            rows.append(
                [model, str(training.number), labelled["verdict"], *aurocs, window, plain["verdict"], fall]
            )
    heads = ["model", "training", "with labels", *SIGNS, "blocks of the risk", "without labels"]
    return [
        f"The two agree on {agree} of {len(rows)} models.",
        table([*heads, "image dependence lost at the end, nats"], rows),
    ]

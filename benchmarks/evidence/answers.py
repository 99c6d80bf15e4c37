"""The answers of one training of both models: a run folder, or what is kept of one in the repository.

Of a training whose weights are not shipped, `kept` holds all that its figures are made of: the settings
with the checksums of the weights, what was tried on validation, and the answers themselves.
"""

import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.evidence.trainings import Figures
from benchmarks.folder import RunFolder
from benchmarks.methods import create
from benchmarks.predictions import entries
from benchmarks.tasks import Task, figures
from benchmarks.usage import UsageError

KEPT = Path(__file__).parent / "kept"
TASK = "miniature-chair"
FILES = ("config.yaml", "versions.json", "tuning.json", "cost.json")
DIAGNOSIS = "diagnosis.json"
"""Of a run folder all this is kept, and what calibration found, beside the answers."""


@dataclass(frozen=True)
class Training:
    """One training: the run folder with the answers of both of its models."""

    number: int
    path: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return dict(OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml")))  # type: ignore[arg-type]

    @cached_property
    def tuning(self) -> Mapping[str, Any]:
        """Model -> greedy's figures on validation, and for each method its choice; see `tuning.Tuned`."""
        return dict(json.loads((self.path / "tuning.json").read_text("utf-8"))["models"])

    @cached_property
    def costs(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """(model, method) -> a row of cost.json, as far as it is known."""
        rows = json.loads((self.path / "cost.json").read_text("utf-8"))["rows"]
        return {(row["model"], row["method"]): row for row in rows if row["task"] == TASK}

    @cached_property
    def task(self) -> Task:
        return create(TASK, self.config["task"][TASK])

    def lines(self, model: str, method: str) -> list[dict[str, Any]]:
        """The answers in the order of the items. Raises: UsageError when one is missing."""
        path = RunFolder(self.path).predictions(model, method, TASK)
        found = {line["image_id"]: line for line in entries(path)}
        asked = [item.image_id for item in self.task.items()]
        lacking = [key for key in asked if "error" in found.get(key, {"error": ""})]
        if lacking:
            raise UsageError(
                f"{path}: no answer about {len(lacking)} of {len(asked)} images, {lacking[0]} the first; "
                f"finish the run with the same command"
            )
        return [found[key] for key in asked]

    def figures(self, model: str, method: str) -> Figures:
        return figures(self.task, self.lines(model, method))


def keep(training: Training, folder: Path = KEPT) -> Path:
    """Packs the answers of a training. Returns: the file."""
    return pack(training.path, folder / f"{training.number}.tar.xz")


def pack(run: Path, path: Path) -> Path:
    """Packs a finished run folder, as bytes that depend on its answers alone. Returns: the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = sorted((run / "predictions").glob(f"*/*/{TASK}.jsonl"))
    found = [*sorted((run / "calibration").glob("*.json")), *run.glob(DIAGNOSIS)]
    named = [*(run / name for name in FILES), *found, *answers]
    partial = path.with_suffix(".partial")
    with lzma.open(partial, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for file in named:
            entry = tarfile.TarInfo(str(file.relative_to(run)))
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)
    partial.replace(path)
    return path


def unpacked(number: int, into: Path, folder: Path = KEPT) -> Training:
    """The answers that were kept of a training, as files under ``into``."""
    path = into / f"training-{number}"
    unpack(folder / f"{number}.tar.xz", path)
    return Training(number, path)


def unpack(path: Path, into: Path) -> None:
    """What `pack` packed, as a run folder again. Raises: UsageError on a damaged file."""
    try:
        with tarfile.open(path, "r:xz") as archive:
            archive.extractall(into, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UsageError(f"{path} is damaged ({error}); take it from the repository again") from error


def kept(folder: Path = KEPT) -> list[int]:
    """The numbers of the trainings of which answers are kept."""
    return sorted(int(file.name.split(".")[0]) for file in folder.glob("[0-9]*.tar.xz"))

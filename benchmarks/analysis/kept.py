"""The folder ``traces`` of a model: all that its figures are drawn from, in this process or another one.

``about.json`` says what was asked and which words are marked; each other file is a `Trace`, but for
``released.safetensors``: the released scripts' divergence ``[tokens, L]`` of the greedy answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.usage import UsageError
from mutation_decode import Trace

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of one model's answers.

    Attributes:
        about: model, prompt, of (what was shown), objects; marks: trace -> kind of every token; words: what
            the figure of that name shows; question, images, answers; left out: figure -> why.
        traces: greedy, the methods' names, question, with-image, without-image.
        released: `[tokens, L]` of greedy; None where it was not asked for.
    """

    about: Mapping[str, Any]
    traces: Mapping[str, Trace]
    released: Tensor | None = None

    def save(self, folder: Path) -> None:
        """Writes the folder, in place of what an earlier call wrote there."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in [folder / "about.json", *folder.glob("*.safetensors")]:
            old.unlink(missing_ok=True)
        for name, trace in self.traces.items():
            trace.save(folder / f"{name}.safetensors")
        if self.released is not None:
            save_file({"released": self.released.contiguous()}, folder / "released.safetensors")
        told = {"schema": SCHEMA, "traces": list(self.traces), **self.about}
        partial = folder / ".about.json.partial"
        partial.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(folder / "about.json")  # last: a folder with it is whole


def load(folder: Path) -> Kept:
    """What `Kept.save` wrote. Raises: UsageError on anything else."""
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, expected {SCHEMA}")
        traces = {name: Trace.load(folder / f"{name}.safetensors") for name in about["traces"]}
        path = folder / "released.safetensors"
        released = load_file(path)["released"] if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(
            f"{folder}: no whole folder of traces: {error}; expected one that benchmarks.analysis wrote"
        ) from error
    return Kept(about, traces, released)


def models(folder: Path) -> dict[str, Path]:
    """Model -> its folder of traces. Raises: UsageError when there is none."""
    found = {path.parent.parent.name: path.parent for path in sorted(folder.glob("*/traces/about.json"))}
    if not found:
        raise UsageError(
            f"traces={folder}: no traces there; expected the folder= of an earlier call, with MODEL/traces"
        )
    return found

"""The file of a trace: tensors as safetensors, all else as JSON in the header."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .saved import fingerprint, warn_of_another

SCHEMA = 1


def write(path: str | Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    header = json.dumps({"schema": SCHEMA, **told}, ensure_ascii=False)
    # Not save_file, whose files nobody else could read.
    part.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, {"trace": header}))
    os.replace(part, target)


def read(path: str | Path, model: nn.Module | None, *, required: Sequence[str]) -> dict[str, Any]:
    """What was written.

    Raises:
        ValueError: if it is no such file, one of another schema, or of a model of another depth than this.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("trace", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: expected the file of a trace, got {error}.") from error
    schema = header.pop("schema", None) if isinstance(header, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"{path}: expected a trace of schema {SCHEMA}, got {schema!r}; record it again, or use the "
            f"version of mutation_decode that wrote it."
        )
    if missing := set(required) - tensors.keys():
        raise ValueError(f"{path}: a trace has {', '.join(sorted(missing))}, which this file lacks.")
    if header.get("texts") is not None:
        header["texts"] = tuple(tuple(row) for row in header["texts"])
    if header.get("names") is not None:
        header["names"] = {int(number): text for number, text in header["names"].items()}
    header["watched"] = tuple(header.get("watched", (0, 0)))
    if model is not None and header.get("model") is not None:
        here, there = fingerprint(model)["depth"], tensors["js"].shape[2]
        if here is not None and here != there:
            raise ValueError(f"{path}: a trace of {there} blocks, and this model has {here}.")
        warn_of_another(header["model"], model, str(path), advice="Record one of this model.")
    return {**header, **tensors}

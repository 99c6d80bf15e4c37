"""The small JSON file of a calibration: what it was made for, and how it is read again.

A model's fingerprint is its type, depth and vocabulary, and a few numbers of its head and of its last norms.
These are compared with a tolerance of one percent, so that the dtype a model is loaded in does not matter,
nor does quantising what lies between. An adapter that leaves head and norms as they were is not told apart.
"""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

SCHEMA = 1
NUMBERS = 16
CLOSE = 0.01
CONTENT = {"model": dict, "verdict": str, "recommended": str | None, "remedies": dict, "report": dict}

Knobs = TypeVar("Knobs")


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What tells a model from others, in plain JSON; numbers that wait on a disk are left out."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    head = getattr(model, "get_output_embeddings", lambda: None)()
    norms = [p for _, p in model.named_parameters() if p.dim() == 1 and p.is_floating_point()][-4:]
    return {
        "class": type(config).__name__,
        "type": getattr(config, "model_type", None),
        "depth": getattr(text, "num_hidden_layers", None),
        "vocabulary": getattr(text, "vocab_size", None),
        "head": _numbers([getattr(head, "weight", None)]),
        "norms": _numbers(norms),
    }


def write(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    text = json.dumps({"schema": SCHEMA, **content}, indent=1, ensure_ascii=False, allow_nan=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, target)


def read(path: str | Path, model: nn.Module | None = None) -> dict[str, Any]:
    """The content of a file; warns where it was made for another model than the one given.

    Raises:
        ValueError: if it is no such file, or one of a schema that is not known here.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected the JSON file of a calibration, got {error}.") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise ValueError(
            f"{path}: expected the JSON file of a calibration, as `mutation-decode calibrate` writes it."
        )
    if content["schema"] != SCHEMA:
        raise ValueError(
            f"{path}: expected a calibration of schema {SCHEMA}, got {content['schema']!r}; calibrate again, "
            f"or use the version of mutation_decode that wrote it."
        )
    if missing := CONTENT.keys() - content.keys():
        raise ValueError(f"{path}: a calibration has {', '.join(sorted(missing))}, which this file lacks.")
    for key, kind in CONTENT.items():
        if not isinstance(content[key], kind):
            raise ValueError(f"{path}: expected {key} of a calibration, got {content[key]!r}.")
    if model is not None:
        warn_of_another(content["model"], model, str(path))
    return content


def warn_of_another(
    made_for: Mapping[str, Any], model: nn.Module, name: str, advice: str = "Calibrate this one."
) -> None:
    """Warns where a fingerprint is not that of a model."""
    here = fingerprint(model)
    unlike = [key for key, value in made_for.items() if not _alike(value, here.get(key))]
    if unlike:
        told = ", ".join(
            f"{key} {made_for[key]!r} is {here.get(key)!r} here"
            if not isinstance(made_for[key], list)
            else f"the numbers of its {key} are others"
            for key in unlike
        )
        warnings.warn(f"{name} was made for another model: {told}. {advice}", UserWarning, stacklevel=4)


def load(
    kind: type[Knobs], path: str | Path, model: nn.Module | None, *, part: str, remedy: str | None = None
) -> Knobs:
    """One part of what a file recommends.

    Args:
        kind: the dataclass of its knobs.
        model: what it is loaded for; it warns if that is another one than it was made for.
        part: strategy or detector.
        remedy: contrast or skip; None for the recommended one.

    Raises:
        ValueError: if the file recommends no such thing, or its knobs do not fit the model's depth.
    """
    content = read(path, model)
    remedy = content["recommended"] if remedy is None else remedy
    if remedy not in content["remedies"]:
        found = ", ".join(content["remedies"]) or "nothing"
        raise ValueError(
            f"{path}: this calibration ({content['verdict']}) found no {remedy or 'remedy'} that helps, but "
            f"{found}."
        )
    knobs = made(kind, section(content["remedies"][remedy], remedy, path)[part], path)
    if model is not None:
        fits(knobs, model, path)
    return knobs


def section(found: Any, remedy: str, path: str | Path) -> Mapping[str, Any]:
    """What a file holds of a remedy. Raises: ValueError if that is no strategy with detector and gate."""
    if not isinstance(found, dict) or not {"strategy", "detector", "gate"} <= found.keys():
        raise ValueError(f"{path}: expected strategy, detector and gate of {remedy}, got {found!r}.")
    return found


def made(kind: type[Knobs], knobs: Mapping[str, Any], path: str | Path) -> Knobs:
    """Raises: ValueError if these are not the knobs of that class."""
    try:
        return kind(**knobs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the knobs of {kind.__name__}: {error}") from error


def fits(knobs: Any, model: nn.Module, path: str | Path) -> None:
    """Raises: ValueError if layers that the knobs name are none of the model."""
    depth = fingerprint(model)["depth"]
    if depth is None:
        return
    try:
        (knobs.blocks if hasattr(knobs, "blocks") else knobs.readouts)(depth)
    except ValueError as error:
        raise ValueError(f"{path} does not fit this model: {error}") from error


def plain(knobs: Any) -> dict[str, Any] | None:
    """The knobs of a dataclass, as JSON takes them."""
    return None if knobs is None else asdict(knobs)


def _numbers(tensors: list[Any]) -> list[float] | None:
    """The first numbers of each of them, to four digits; None where they cannot be read."""
    if not tensors or not all(
        isinstance(t, Tensor) and t.is_floating_point() and t.device.type != "meta" for t in tensors
    ):
        return None
    with torch.no_grad():
        found = torch.cat([t.detach().reshape(-1)[: NUMBERS // len(tensors)].float().cpu() for t in tensors])
    return [float(f"{number:.4g}") for number in found.tolist()]


def _alike(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return True
    if not isinstance(one, list):
        return bool(one == other)
    scale = max(map(abs, one), default=0.0)
    return len(one) == len(other) and all(
        abs(a - b) <= CLOSE * abs(a) + 1e-4 * scale for a, b in zip(one, other, strict=True)
    )

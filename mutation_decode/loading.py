"""A model by name or folder, as the command loads it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

REFUSALS = (
    OSError,
    ValueError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,  # torch, of a device that it was built without
    SafetensorError,
)
"""What transformers and torch raise for a model that cannot be loaded."""

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def load(name: str, device: str, dtype: str | None) -> tuple[Any, Any]:
    """The model on its device, in evaluation mode, and its processor. Raises: one of REFUSALS."""
    place = _place(device)
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=_dtype(dtype, place)).eval().to(place)
    return model, AutoProcessor.from_pretrained(name)


def load_or_build(name: str, device: str, dtype: str | None) -> tuple[Any, Any, bool]:
    """The same of models of text too, and with random weights where a folder holds but a configuration.

    Returns: model, processor (None where there is none), whether its weights are random.

    Raises: one of REFUSALS.
    """
    place = _place(device)
    kind, config = _dtype(dtype, place), AutoConfig.from_pretrained(name)
    family = (
        AutoModelForImageTextToText
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        else AutoModelForCausalLM
    )
    folder = Path(name)
    built = folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in WEIGHTS)
    model = (
        family.from_config(config, dtype=None if kind == "auto" else kind)
        if built
        else family.from_pretrained(name, dtype=kind)
    )
    try:
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError):
        processor = None  # its parts can be looked at without
    return model.eval().to(place), processor, built


def _place(device: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device(device if device != "auto" else accelerator or "cpu")


def _dtype(name: str | None, place: torch.device) -> Any:
    if name is None:
        return "auto" if place.type != "cpu" else torch.float32
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"{name!r} is no dtype of torch")
    return kind

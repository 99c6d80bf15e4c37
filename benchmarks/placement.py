"""Where a model runs: one device, or several that accelerate spreads it over."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.usage import UsageError, nearest

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""What accelerate knows as a device_map, beside a mapping from modules to devices."""


def resolve_device(device: str, name: str) -> torch.device:
    """``auto`` gives each process an accelerator of its own, if there are as many.

    Raises: UsageError when this machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        if accelerator is None:
            return torch.device("cpu")
        if "LOCAL_RANK" not in os.environ:
            return accelerator
        return torch.device(
            accelerator.type, int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
        )
    there = ["cpu"]
    if accelerator is not None:
        count = torch.accelerator.device_count()
        there += [accelerator.type, *(f"{accelerator.type}:{index}" for index in range(count))]
    if device not in there:
        raise UsageError(f"model {name}: device {device!r} is not there; this machine has {', '.join(there)}")
    return torch.device(device)


def check_spread(device_map: str | Mapping[str, Any], name: str) -> None:
    """Raises: UsageError on an unknown word, and where several processes would share one model's devices."""
    if isinstance(device_map, str) and device_map not in SPREADS:
        raise UsageError(
            f"model {name}: unknown device_map {device_map!r}: {nearest(device_map, SPREADS)}, "
            f"or a mapping from modules to devices; for one device set device"
        )
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if int(processes) > 1:
        raise UsageError(
            f"model {name}: device_map spreads one model over all devices of a machine, and here are "
            f"{processes} processes with a model each; start one process a machine"
        )


def entrance(model: Any) -> torch.device:
    """Where inputs go: the model's device; of a model on several, the first that is no store."""
    spread = getattr(model, "hf_device_map", {}).values()
    devices = [torch.device(place) for place in spread if place not in ("cpu", "disk")]
    return devices[0] if devices else torch.device("cpu") if spread else model.device

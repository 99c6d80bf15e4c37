"""The noise of a diffusion process on a batch's pixels, which one conversation's neighbours do not change."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.prompting import Messages, images_of
from benchmarks.usage import UsageError

STEPS = 1000


def shares(step: int) -> tuple[float, float]:
    """How much of a picture is left after ``step`` (0..999), and how much noise of variance 1 is added.

    ``sqrt(a)`` and ``sqrt(1 - a)`` with a the product of ``1 - b`` up to this step; b grows from 1e-5 to
    5e-3 along a sigmoid between -6 and 6.

    Source: DAMO-NLP-SG/VCD, vcd_utils/vcd_add_noise.py at 039af55.
    """
    betas = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    left = float((1 - betas).cumprod(0)[step])
    return left**0.5, (1 - left) ** 0.5


def pixels(inputs: Mapping[str, Any]) -> list[str]:
    """The names under which a processor hands over pictures."""
    named = [name for name in inputs if "pixel_values" in name or name == "image_patches"]
    return [n for n in named if isinstance(inputs[n], Tensor) and inputs[n].is_floating_point()]


def generator(conversation: Messages, seed: int) -> torch.Generator:
    """The chance of one conversation: from its seed and its pictures, since batches share seeds."""
    told = hashlib.sha256(str(seed).encode())
    for image in images_of(conversation):
        told.update(image["image"].tobytes())
    return torch.Generator().manual_seed(int.from_bytes(told.digest()[:7]))


def noised(
    inputs: Mapping[str, Any],
    alone: Sequence[Mapping[str, Any]],
    generators: Sequence[torch.Generator],
    step: int,
) -> dict[str, Any]:
    """The same inputs, their pixels after ``step`` of the process; ``inputs`` are not changed.

    Args:
        alone: what each conversation would be by itself: where its pixels are in the batch, and what of them
            is padding, which stays.

    Raises: ValueError when there are no pixels. UsageError when they do not lie one conversation's after the
        other's.
    """
    names, (left, added) = pixels(inputs), shares(step)
    if not names:
        raise ValueError(f"among its inputs are no pixel_values to add noise to: {', '.join(inputs)}")
    other = dict(inputs)
    for name in names:
        whole = inputs[name].float().cpu().clone()
        parts = [each[name] for each in alone]
        if sum(map(len, parts)) != len(whole) or any(part.dim() != whole.dim() for part in parts):
            raise UsageError(
                f"{name} of a batch, {tuple(whole.shape)}, are not those of its conversations, "
                f"{[tuple(part.shape) for part in parts]}, one after the other; set generation.batch_size=1"
            )
        start = 0
        for part, chance in zip(parts, generators, strict=True):
            place = whole[(slice(start, start + len(part)), *(slice(size) for size in part.shape[1:]))]
            place.mul_(left).add_(torch.randn(part.shape, generator=chance), alpha=added)
            start += len(part)
        other[name] = whole.to(inputs[name])
    return other

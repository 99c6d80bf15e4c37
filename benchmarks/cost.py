"""What answers cost: time to the first token, tokens a second, peak memory; kept batch by batch.

Times and memory differ from run to run, so they have files of their own, beside the predictions.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import StoppingCriteria

GIB = 2**30


class FirstToken(StoppingCriteria):
    """Sees when a generate has its first token, and how many tokens stand before it; stops nothing."""

    def __init__(self) -> None:
        self.at = 0.0
        self.before: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if self.before is None:
            if input_ids.device.type != "cpu":
                torch.accelerator.synchronize(input_ids.device)
            self.at, self.before = time.perf_counter(), input_ids.shape[1] - 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Watch:
    """Times what is done inside, and its peak of memory.

    Attributes:
        seconds: from the prompt, prepared, to the last token.
        first: seconds to the first token.
        peak: bytes; the most that one device held, weights included; on a CPU what the process ever held.
    """

    def __init__(self, device: torch.device, first: FirstToken) -> None:
        self._first = first
        self._counted = device.type == "cuda"
        self.seconds = self.first = 0.0
        self.peak = 0

    def __enter__(self) -> Self:
        if self._counted:
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.first = max(0.0, self._first.at - self._start)
        if self._counted:
            self.peak = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
        else:
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.peak = held if sys.platform == "darwin" else held * 1024


@dataclass(slots=True)
class Spent:
    """What one batch took. ``first`` is that of its first part, if it was halved; ``peak`` is in bytes."""

    items: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first: float = 0.0
    peak: int = 0
    halved: int = 0

    def add(self, watch: Watch, *, items: int, tokens: int) -> None:
        self.first = self.first or watch.first
        self.items += items
        self.tokens += tokens
        self.seconds += watch.seconds
        self.peak = max(self.peak, watch.peak)


def keep(path: Path, batch: int, spent: Spent) -> None:
    """Appends what a batch took to a file of JSON Lines."""
    with path.open("a", encoding="utf-8") as file:
        # In front as well: a full disk may have left half a line.
        file.write("\n" + json.dumps({"batch": batch, **asdict(spent)}) + "\n")


def summary(paths: Iterable[Path]) -> dict[str, float] | None:
    """Median time to the first token, tokens a second of one process, peak memory, batches halved.

    Returns: None where nothing was generated.
    """
    found: list[Mapping[str, Any]] = []
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            with suppress(ValueError):  # half a line
                found += [json.loads(line)] if line else []
    timed = [each for each in found if each["items"]]
    if not timed:
        return None
    return {
        "first_token_seconds": statistics.median(each["first"] for each in timed),
        "tokens_per_second": sum(each["tokens"] for each in timed) / sum(each["seconds"] for each in timed),
        "peak_gib": max(each["peak"] for each in timed) / GIB,
        "batches": len(found),
        "halved": sum(each["halved"] for each in found),
    }
